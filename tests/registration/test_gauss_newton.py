"""The affine map under which two images correlate best: from anywhere nearby, on part of the image, in any contrast."""

import itertools

import numpy as np
import pytest
import torch
from factories import SIDE, VOLUME_SIDE, affine_map, corner_distance, ellipsoid, move, oval, texture, volume_map
from torch import Tensor

from mi_callback.images.filters import standardise
from mi_callback.images.resizing import shrink
from mi_callback.images.warping import warp
from mi_callback.images.windows import window_masks
from mi_callback.registration.affine_search import search_maps
from mi_callback.registration.config import registration_config
from mi_callback.registration.gauss_newton import identity_maps, refine_best_start, refine_map

pytestmark = pytest.mark.numeric


def align_coarse(generated: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Searched and refined on the coarsest level: the map, and the magnitude of the correlation under it."""
    config = registration_config(generated.ndim - 2)
    images = shrunk(config.coarse.share, generated, reference, mask)
    starts, _ = search_maps(*images, config.search)
    return refine_best_start(*images, starts, config.coarse.iterations, config.gauss_newton)


def align(generated: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The map after the two coarser levels, and the magnitude of the correlation under it on the second of these."""
    config = registration_config(generated.ndim - 2)
    theta, _ = align_coarse(generated, reference, mask)
    images = shrunk(config.middle.share, generated, reference, mask)
    return refine_map(*images, theta, config.middle.iterations, config.gauss_newton)


def refine_fine(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    config = registration_config(generated.ndim - 2)
    return refine_map(generated, reference, mask, theta, config.fine.iterations, config.gauss_newton)[0]


def shrunk(share: float, *images: Tensor) -> list[Tensor]:
    return [shrink(image, round(share * image.shape[-1])) for image in images]


def correlate(fixed: Tensor, moving: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    """Magnitude of the correlation over the overlap, in float64, `(p,)`."""
    warped, inside = warp(moving.double(), theta.double())
    there = (inside * mask).flatten(1) > 0
    pairs = zip(fixed.double().flatten(1), warped.flatten(1), there, strict=True)
    return torch.tensor([abs(np.corrcoef(a[where], b[where])[0, 1]) for a, b, where in pairs])


NEAR = {
    **{f"rotation_{angle}": affine_map(angle) for angle in (-42, -30, 8, 30, 42)},
    **{f"zoom_{zoom}": affine_map(zoom=zoom) for zoom in (0.75, 0.87, 1.15, 1.33)},
    **{f"shift_{x}_{y}": affine_map(shift=(x, y)) for x, y in ((0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4))},
    "shift_both": affine_map(shift=(0.25, -0.25)),
    "turned_and_larger": affine_map(30, 0.75),
    "turned_and_smaller": affine_map(-30, 1.33),
    "all": affine_map(-20, 0.85, (0.15, 0.1)),
}

NEAR_VOLUMES = {
    **{f"about_{axis}_{angle}": volume_map(axis, angle) for axis in "xyz" for angle in (-25, 20)},
    **{f"zoom_{zoom}": volume_map("x", 0, zoom) for zoom in (0.75, 1.33)},
    **{f"along_{'xyz'[k]}": volume_map("x", 0, 1.0, tuple(0.3 * (k == j) for j in range(3))) for k in range(3)},
    "back": volume_map("x", 0, 1.0, (-0.15, -0.2, -0.15)),
    "turned_and_larger": volume_map("y", 20, 0.8, (0.05, 0.0, -0.05)),
    "turned_and_smaller": volume_map("z", -20, 1.25, (0.0, 0.08, 0.05)),
}


# Definition


def test_the_correlation_that_comes_with_a_map_is_that_under_it():
    reference, masks = oval(4), window_masks(SIDE)[[0, 4, -1, 7]]
    generated = move(reference, affine_map(10, 0.9, (0.1, 0))).roll(1, 0)
    generated[0] = 1 - generated[0]
    theta, correlation = align_coarse(generated, reference, masks)
    images = shrunk(0.25, generated, reference, masks)
    assert torch.allclose(correlation.double(), correlate(*images, theta), atol=0.02)


def test_more_steps_never_correlate_less_and_end_where_more_change_nothing():
    reference = oval(4)
    images = shrunk(0.5, move(reference, affine_map(4, 0.97, (0.02, 0.01))), reference, torch.ones_like(reference))
    config = registration_config(2).gauss_newton
    start = affine_map().expand(4, -1, -1)
    found = [refine_map(*images, start, steps, config)[1] for steps in (0, 1, 2, 4, 8)]
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(found))
    theta, best = refine_map(*images, start, 8, config)
    again, same = refine_map(*images, theta, 4, config)
    assert torch.allclose(again, theta, atol=2e-3)
    assert torch.allclose(same, best, atol=1e-4)


def test_faint_structure_in_bright_images_is_aligned_as_exactly():
    config = registration_config(2).gauss_newton
    images = shrunk(0.25, move(oval(4), affine_map(2, 1.02, (0.02, 0))), oval(4), torch.ones(4, 1, SIDE, SIDE))
    generated, reference, mask = images
    start = affine_map().expand(4, -1, -1)
    expected, _ = refine_map(generated, reference, mask, start, 6, config)
    ours, theirs = (0.9 + 0.02 * (image - 0.5) for image in (generated, reference))
    theta, correlation = refine_map(ours, theirs, mask, start, 6, config)
    assert torch.allclose(theta, expected, atol=5e-3)
    warped, inside = warp(theirs.double(), theta.double())
    alike = [standardise(images, inside) * inside for images in (ours.double(), warped)]
    there = alike[0] * alike[1]
    assert torch.allclose(correlation.double(), there.flatten(1).sum(dim=1) / inside.flatten(1).sum(dim=1), atol=1e-3)


def test_maps_that_leave_less_than_a_quarter_in_the_overlap_correlate_nothing():
    images, mask = texture(2), torch.ones(2, 1, SIDE, SIDE)
    theta = torch.cat([affine_map(shift=(x, 0)) for x in (0.72, 0.78)])
    _, correlation = refine_map(images, images, mask, theta, 0, registration_config(2).gauss_newton)
    assert correlation[0] > 0
    assert correlation[1] == 0


def test_the_identity_is_a_start_and_each_pair_goes_on_from_its_own_best():
    reference = shrink(texture(3), 24)
    theta = torch.cat([affine_map(), affine_map(20, shift=(0.2, 0)), affine_map(-15, 0.9)])
    generated = shrink(move(texture(3), theta), 24)
    far = affine_map(shift=(0.4, 0.4)).expand(3, -1, -1)
    starts = torch.stack([far, theta], dim=1)
    starts[0, 1] = far[0]  # the first has no start near its map but the identity
    config = registration_config(2).gauss_newton
    found, correlation = refine_best_start(generated, reference, torch.ones_like(reference), starts, 10, config)
    assert corner_distance(found, theta).max() < 1
    assert correlation.min() > 0.98


def test_maps_that_leave_everything_where_it_is():
    assert torch.equal(identity_maps(torch.rand(2, 5, 3, 4)), torch.eye(3, 4).expand(2, 5, 3, 4))


# Promise


def test_a_map_is_found_wherever_it_lies_within_reach():
    theta = torch.cat(list(NEAR.values()))
    names = [name for name in NEAR for _ in range(2)]
    theta = theta.repeat_interleave(2, dim=0)
    reference = oval(4)[torch.arange(len(names)) % 4]
    found, correlation = align(move(reference, theta), reference, torch.ones_like(reference))
    errors = dict(zip(names, corner_distance(found, theta).tolist(), strict=True))
    assert max(errors.values()) < 0.5, errors
    assert correlation.min() > 0.99


@pytest.mark.parametrize("inverted", [False, True])
def test_a_map_of_volumes_is_found_wherever_it_lies_within_reach(inverted):
    names, maps = zip(*NEAR_VOLUMES.items(), strict=True)
    theta = torch.cat(maps)
    reference = ellipsoid(1, fade=20, floor=0.2).expand(len(maps), -1, -1, -1, -1)
    generated = move(reference, theta)
    generated = 1 - generated if inverted else generated
    found, correlation = align(generated, reference, torch.ones_like(reference))
    assert found.shape == (len(maps), 3, 4)
    errors = dict(zip(names, corner_distance(found, theta).tolist(), strict=True))
    assert max(errors.values()) < 0.7, errors
    assert correlation.min() > 0.98
    some = slice(None, None, 3)
    fine = refine_fine(generated[some], reference[some], torch.ones_like(reference[some]), found[some])
    assert corner_distance(fine, theta[some]).max() < 0.5


def test_inverted_contrast_is_aligned_as_well():
    reference, theta = oval(3), torch.cat([NEAR[name] for name in ("rotation_30", "shift_0.4_0", "all")])
    generated, whole = move(reference, theta), torch.ones_like(reference)
    plain, plain_correlation = align(generated, reference, whole)
    inverted, correlation = align(1 - generated, reference, whole)
    assert corner_distance(inverted, theta).max() < 0.5
    assert torch.allclose(plain, inverted, atol=1e-3)
    assert torch.allclose(plain_correlation, correlation, atol=1e-3)
    fine, other = (refine_fine(images, reference, whole, inverted) for images in (generated, 1 - generated))
    assert torch.allclose(fine, other, atol=1e-3)


OUTSIDE = {
    "another_image": lambda like, g: texture(len(like), seed=9),
    "noise": lambda like, g: torch.rand(like.shape, generator=g),
    "grey": lambda like, g: torch.full_like(like, 0.5),
    "black": lambda like, g: torch.zeros_like(like),
}


@pytest.mark.parametrize("outside", OUTSIDE)
def test_a_window_is_aligned_whatever_is_outside(outside, generator):
    reference, theta = texture(9, seed=3), affine_map(8, 0.95, (0.025, -0.02))
    copy, masks = move(reference, theta), window_masks(SIDE)[:9]
    mixed = torch.where(masks > 0, copy, OUTSIDE[outside](copy, generator))
    found, expected = (align(images, reference, masks)[0] for images in (mixed, copy))
    assert corner_distance(found, theta).max() < 1.2
    assert corner_distance(found, expected).max() < 0.5
    # The finest step sees a little of it: contrast is local to about 8 pixels.
    assert corner_distance(refine_fine(mixed, reference, masks, found), theta).max() < 2


def test_without_a_mask_what_is_outside_decides():
    reference, theta = texture(9, seed=3), affine_map(8, 0.95, (0.025, -0.02))
    masks = window_masks(SIDE)[:9]
    mixed = torch.where(masks > 0, move(reference, theta), texture(9, seed=9))
    assert corner_distance(align(mixed, reference, torch.ones_like(masks))[0], theta).median() > 5


def test_of_a_volume_only_the_window_is_aligned():
    reference = ellipsoid(1, fade=20, floor=0.2).expand(3, -1, -1, -1, -1)
    theta = volume_map("z", 6, 0.95, (0.02, -0.02, 0.01))
    masks = window_masks(VOLUME_SIDE, 3)[[4, 13, 22]]  # the corners hold little of the ellipsoid
    mixed = torch.where(masks > 0, move(reference, theta), ellipsoid(1, seed=9, fade=20, floor=0.2))
    found, _ = align(mixed, reference, masks)
    assert corner_distance(found, theta).max() < 1.5
    assert corner_distance(align(mixed, reference, torch.ones_like(masks))[0], theta).min() > 2


def test_pairs_do_not_depend_on_each_other():
    reference, masks = texture(4), window_masks(SIDE)[[0, 4, -1, 7]]
    generated = move(reference, affine_map(10, 0.9, (0.1, 0))).roll(1, 0)
    generated[0] = 0.5
    together = align(generated, reference, masks)
    for i in range(4):
        alone = align(generated[i : i + 1], reference[i : i + 1], masks[i : i + 1])
        assert torch.allclose(alone[0][0], together[0][i], atol=1e-2)
        assert torch.allclose(alone[1][0], together[1][i], atol=1e-3)


# Refusal: nothing to align


@pytest.mark.parametrize("part", [-1, 0, 13])
def test_flat_volumes_give_finite_maps_and_no_correlation(part):
    structured = ellipsoid(1)
    empty = torch.full_like(structured, 0.5)
    generated, reference = torch.cat([empty, structured, empty]), torch.cat([structured, empty, empty])
    assert_nothing_correlates(generated, reference, window_masks(VOLUME_SIDE, 3)[[part] * 3])


@pytest.mark.parametrize("part", [-1, 0, 4])
def test_flat_images_give_finite_maps_and_no_correlation(part):
    structured, other = oval(1), oval(1, seed=1)
    empty, mask = torch.full_like(structured, 0.5), window_masks(SIDE)[[part]]
    flat_in_the_window = torch.where(mask > 0, empty, structured)
    generated = torch.cat([empty, structured, empty, flat_in_the_window])
    reference = torch.cat([other, empty, empty, other])
    assert_nothing_correlates(generated, reference, mask.expand(4, -1, -1, -1))


def assert_nothing_correlates(generated: Tensor, reference: Tensor, mask: Tensor) -> None:
    theta, correlation = align(generated, reference, mask)
    assert theta.isfinite().all()
    assert refine_fine(generated, reference, mask, theta).isfinite().all()
    assert correlation.abs().max() < 0.05
    assert align_coarse(generated, reference, mask)[1].abs().max() < 0.05
