"""The affine map under which two images correlate best: from anywhere nearby, on part of the image, in any contrast."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from mi_callback.images.filters import standardise
from mi_callback.images.resizing import shrink
from mi_callback.images.thumbnails import THUMBNAIL_SIDE
from mi_callback.images.warping import warp
from mi_callback.images.windows import window_masks
from mi_callback.registration.affine import (
    LEAST_OVERLAP,
    ROTATIONS,
    SEARCHED,
    SHIFTS,
    STARTS,
    ZOOMS,
    _between,
    _gauss_newton,
    _linear_maps,
    _shifted,
    align_coarsely,
    align_further,
    at_level,
    search,
)
from mi_callback.registration.pyramid import COARSEST, FINEST, MIDDLE

SIDE, VOLUME_SIDE = THUMBNAIL_SIDE[2], THUMBNAIL_SIDE[3]


def aligned(generated: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The map after the coarser levels, and the magnitude of the correlation under it on the last of these."""
    theta, _ = coarsely(generated, reference, mask)
    fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
    theta = align_further(MIDDLE, fixed, moving, where, theta)
    warped, inside = warp(moving, theta)
    ours, theirs = (standardise(images, inside * where) * inside * where for images in (fixed, warped))
    return theta, (ours * theirs).flatten(1).sum(dim=1).abs() / (inside * where).flatten(1).sum(dim=1)


def coarsely(generated: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Searched and fitted on the coarsest level."""
    images = at_level(COARSEST, generated, reference, mask)
    return align_coarsely(*images, search(*images)[0])


def oval(n: int, seed: int = 0) -> torch.Tensor:
    """Textures within an oval that fades out, `(n, 1, SIDE, SIDE)` in [0, 1]."""
    axis = np.linspace(-1, 1, SIDE)
    inside = 1 / (1 + np.exp(20 * (np.sqrt((axis[:, None] / 0.8) ** 2 + (axis[None] / 0.65) ** 2) - 1)))
    return (0.2 + 0.8 * texture(n, seed)) * torch.from_numpy(inside).float()


def texture(n: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images with structure at several scales everywhere, `(n, 1, SIDE, SIDE)` in [0, 1]."""
    rng = np.random.default_rng(seed)
    images = [sum(s * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (2.4, 6, 12)) for _ in range(n)]
    return torch.from_numpy(np.stack([(i - i.min()) / (i.max() - i.min()) for i in images])).float()[:, None]


def to_reference(rotation=0.0, zoom=1.0, shift_x=0.0, shift_y=0.0) -> torch.Tensor:
    """Map from generated to reference coordinates; shifts in shares of the side."""
    cos, sin = (f(math.radians(rotation)) * zoom for f in (math.cos, math.sin))
    return torch.tensor([[[cos, -sin, 2 * shift_x], [sin, cos, 2 * shift_y]]])


def moved(images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Black outside."""
    grid = F.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def volume(seed: int = 0) -> torch.Tensor:
    """Textures within an ellipsoid that fades out, `(1, 1, side, side, side)` in [0, 1]."""
    side = VOLUME_SIDE
    rng = np.random.default_rng(seed)
    image = sum(s**1.5 * gaussian_filter(rng.normal(size=(side,) * 3), s) for s in (1.5, 3, 6))
    image = (image - image.min()) / (image.max() - image.min())
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side),) * 3, indexing="ij")
    inside = 1 / (1 + np.exp(20 * (np.sqrt((z / 0.7) ** 2 + (y / 0.8) ** 2 + (x / 0.65) ** 2) - 1)))
    return torch.from_numpy((0.2 + 0.8 * image) * inside).float()[None, None]


def to_volume(about: str, rotation: float, zoom: float = 1.0, shift: tuple = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Map from generated to reference coordinates: a turn about one axis; shifts (x, y, z) in shares of the side."""
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[about]
    turn = torch.eye(3)
    turn[first, first] = turn[second, second] = cos
    turn[first, second], turn[second, first] = -sin, sin
    return torch.cat([turn * zoom, 2 * torch.tensor(shift)[:, None]], dim=1)[None]


def voxels(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Largest distance between where two maps take the corners of the central half of a volume, `(p,)`."""
    corners = torch.tensor([[*corner, 1.0] for corner in itertools.product((-0.5, 0.5), repeat=3)])
    return (corners @ (one - other).transpose(1, 2)).norm(dim=2).amax(dim=1) * VOLUME_SIDE / 2


def pixels(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Largest distance between where two maps take the corners of the central half, `(p,)`."""
    corners = torch.tensor([[x, y, 1.0] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    return (corners @ (one - other).transpose(1, 2)).norm(dim=2).amax(dim=1) * SIDE / 2


NEAR = {
    **{f"rotation_{angle}": {"rotation": angle} for angle in (-42, -30, 8, 30, 42)},
    **{f"zoom_{zoom}": {"zoom": zoom} for zoom in (0.75, 0.87, 1.15, 1.33)},
    **{f"shift_{x}_{y}": {"shift_x": x, "shift_y": y} for x, y in ((0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4))},
    "shift_both": {"shift_x": 0.25, "shift_y": -0.25},
    "turned_and_larger": {"rotation": 30, "zoom": 0.75},
    "turned_and_smaller": {"rotation": -30, "zoom": 1.33},
    "all": {"rotation": -20, "zoom": 0.85, "shift_x": 0.15, "shift_y": 0.1},
}


NEAR_VOLUMES = {
    **{f"about_{axis}_{angle}": (axis, angle) for axis in "xyz" for angle in (-25, 20)},
    **{f"zoom_{zoom}": ("x", 0, zoom) for zoom in (0.75, 1.33)},
    **{f"along_{'xyz'[k]}": ("x", 0, 1.0, tuple(0.3 * (k == j) for j in range(3))) for k in range(3)},
    "back": ("x", 0, 1.0, (-0.15, -0.2, -0.15)),
    "turned_and_larger": ("y", 20, 0.8, (0.05, 0.0, -0.05)),
    "turned_and_smaller": ("z", -20, 1.25, (0.0, 0.08, 0.05)),
}


# Definition


def evidence_of_all_combinations(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor
) -> list[tuple[float, torch.Tensor]]:
    """Of each rotation and magnification, and each shift by a part of a pixel of the search, the most, and the map."""
    dims, reach = fixed.ndim - 2, SHIFTS[fixed.ndim - 2]
    small = [shrink(images, SEARCHED) for images in (fixed, moving, mask)]
    padded = [np.pad(images[0, 0].double().numpy(), reach) for images in (small[0], small[2])]
    tried = [(one, warp(small[1], one[None])) for one in F.pad(_linear_maps(dims), (0, 1))]
    tried += [
        (one, [shrink(images, SEARCHED) for images in warp(moving, one[None])])
        for one in _between(dims, moving.shape[-1])
    ]
    best = []
    for one, under in tried:
        turned, inside = (images[0, 0].double().numpy() for images in under)
        found = []
        for shift in itertools.product(range(-reach, reach + 1), repeat=dims):
            window = tuple(slice(reach + by, reach + by + SEARCHED) for by in shift)
            ours, ones = (images[window] for images in padded)
            there = ones * (inside > 0.99) > 0
            overlap = there.sum() / float(small[2].sum())
            if overlap >= LEAST_OVERLAP:
                correlation = np.corrcoef(ours[there], turned[there])[0, 1]
                found.append((-overlap * np.log(1 - correlation**2), shift))
        most, shift = max(found)
        along = torch.tensor([[-2 * by / SEARCHED] for by in reversed(shift)])
        best.append((most, torch.cat([one[:, :dims], one[:, :dims] @ along + one[:, dims:]], dim=1)))
    return sorted(best, key=lambda pair: -pair[0])


def assert_starts_are_the_best(fixed: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> None:
    dims = fixed.ndim - 2
    starts, evidence = search(fixed, reference, mask)
    assert starts.shape == (1, STARTS, dims, dims + 1)
    expected = evidence_of_all_combinations(fixed, reference, mask)[:STARTS]
    for start, (_, theta) in zip(starts[0], expected, strict=True):
        assert torch.allclose(start, theta, atol=1e-5)
    assert float(evidence) == pytest.approx(expected[0][0], rel=1e-3)


@pytest.mark.parametrize(("sign", "part"), [(1, -1), (-1, -1), (1, 5), (0, -1)])
def test_the_starts_are_the_best_of_all_combinations(sign, part):
    reference = shrink(texture(1), 24)
    fixed = 0.5 + 0.4 * sign * shrink(moved(texture(1), to_reference(-16, 0.8, 0.06, -0.09)), 24)
    if not sign:  # a corner alone is the same, of less area than a start must cover
        fixed = shrink(texture(1, seed=1), 24)
        fixed[..., :14, :14] = reference[..., 10:, 10:]
        assert LEAST_OVERLAP > (14 / 24) ** 2
    mask = (shrink(window_masks(SIDE)[[part]], SEARCHED) > 0.5).float().repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_starts_are_the_best(fixed, reference, mask)


@pytest.mark.parametrize(("shift_x", "shift_y"), [(1, 0), (0, -1), (1, 1), (-3, 5)])
def test_shifts_by_an_odd_number_of_pixels_are_tried_too(shift_x, shift_y):
    # Lines as thin as a pixel, which no whole pixel of the search would show where they are.
    lines = (torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(3)) > 0.8).float()
    fixed = lines.roll((-shift_y, -shift_x), dims=(2, 3))
    start = search(fixed, lines, torch.ones_like(lines))[0][0, 0]
    assert torch.allclose(start, torch.tensor([[1.0, 0, 2 * shift_x / 24], [0, 1, 2 * shift_y / 24]]), atol=1e-6)


def test_every_rotation_is_tried_with_every_magnification():
    maps = _linear_maps(2)
    found = {(round(float(torch.atan2(m[0, 1], m[0, 0]).rad2deg())), round(float(1 / m.det().sqrt()), 2)) for m in maps}
    angles = {0, *(sign * round(angle) for angle in ROTATIONS[2] for sign in (1, -1))}
    assert found == set(itertools.product(angles, ZOOMS))


@pytest.mark.parametrize("shape", [(9, 9), (5, 6, 5)])
def test_shifts_move_the_image_along_the_first_axis_slowest_and_fill_with_zero(shape, generator):
    images = torch.rand(2, 1, *shape, generator=generator)
    dims = len(shape)
    reach = SHIFTS[dims]
    shifts = list(itertools.product(range(-reach, reach + 1), repeat=dims))
    found = _shifted(images)
    assert found.shape == (2, len(shifts), math.prod(shape))
    for k in range(0, len(shifts), 1 if dims == 2 else 41):
        expected = torch.zeros(2, *shape)
        for place in itertools.product(*map(range, shape)):
            source = [at + by for at, by in zip(place, shifts[k], strict=True)]
            if all(0 <= at < side for at, side in zip(source, shape, strict=True)):
                expected[(slice(None), *place)] = images[(slice(None), 0, *source)]
        assert torch.equal(found[:, k].view(2, *shape), expected)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_starts_of_volumes_are_the_best_of_all_combinations(inverted):
    reference = shrink(volume(), SEARCHED)
    fixed = shrink(moved(volume(), to_volume("y", 15, 0.8, (0.1, -0.05, 0.15))), SEARCHED)
    fixed = 1 - fixed if inverted else fixed
    mask = torch.ones_like(fixed)
    mask[..., :3] = 0
    assert_starts_are_the_best(fixed, reference, mask)


def test_volumes_are_turned_about_every_axis_both_ways():
    maps = _linear_maps(3)
    assert len(maps) == len(ZOOMS) * (1 + 2 * 3 * len(ROTATIONS[3]))
    found = set()
    for one in maps:
        zoom = float(one.det()) ** (-1 / 3)
        turn = (one * zoom).double().numpy()
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        about = [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]  # 2 sin · axis
        found.add((round(zoom, 2), *(round(math.degrees(math.asin(part / 2))) for part in about)))
    turns = [(0, 0, 0)]
    for axis, angle, sign in itertools.product(range(3), ROTATIONS[3], (1, -1)):
        turns.append(tuple(round(sign * angle) if other == axis else 0 for other in range(3)))
    assert found == {(zoom, *turn) for zoom, turn in itertools.product(ZOOMS, turns)}


def test_the_correlation_that_comes_with_a_map_is_that_on_the_coarsest_level():
    reference, masks = oval(4), window_masks(SIDE)[[0, 4, -1, 7]]
    generated = moved(reference, to_reference(10, 0.9, 0.1)).roll(1, 0)
    generated[0] = 1 - generated[0]
    theta, correlation = coarsely(generated, reference, masks)
    fixed, moving, where = at_level(0, generated, reference, masks)
    warped, inside = warp(moving, theta)
    for i in range(4):
        there = (inside * where)[i, 0] > 0
        expected = np.corrcoef(fixed[i, 0][there].numpy(), warped[i, 0][there].numpy())[0, 1]
        assert float(correlation[i]) == pytest.approx(abs(expected), abs=0.02)


def test_faint_structure_in_bright_images_is_aligned_as_exactly():
    mask = torch.ones(4, 1, SIDE, SIDE)
    generated, reference, mask = at_level(COARSEST, moved(oval(4), to_reference(2, 1.02, 0.02)), oval(4), mask)
    start = torch.eye(2, 3).expand(4, -1, -1)
    expected, _ = _gauss_newton(generated, reference, mask, start, 6)
    ours, theirs = (0.9 + 0.02 * (image - 0.5) for image in (generated, reference))
    theta, correlation = _gauss_newton(ours, theirs, mask, start, 6)
    assert torch.allclose(theta, expected, atol=5e-3)
    warped, inside = warp(theirs.double(), theta.double())
    alike = [standardise(images, inside) * inside for images in (ours.double(), warped)]
    there = alike[0] * alike[1]
    assert torch.allclose(correlation.double(), there.flatten(1).sum(dim=1) / inside.flatten(1).sum(dim=1), atol=1e-3)


def test_maps_that_leave_less_than_a_quarter_in_the_overlap_correlate_nothing():
    images, mask = texture(2), torch.ones(2, 1, SIDE, SIDE)
    theta = torch.eye(2, 3).repeat(2, 1, 1)
    theta[:, 0, 2] = 2 * torch.tensor([0.72, 0.78])
    _, correlation = _gauss_newton(images, images, mask, theta, 0)
    assert correlation[0] > 0
    assert correlation[1] == 0


# Promise


@pytest.mark.parametrize("inverted", [False, True])
def test_a_map_of_volumes_is_found_wherever_it_lies_within_reach(inverted):
    names, maps = zip(*NEAR_VOLUMES.items(), strict=True)
    reference, theta = volume().expand(len(maps), -1, -1, -1, -1), torch.cat([to_volume(*one) for one in maps])
    generated = moved(reference, theta)
    generated = 1 - generated if inverted else generated
    whole = torch.ones_like(reference)
    found, correlation = aligned(generated, reference, whole)
    assert found.shape == (len(maps), 3, 4)
    coarse = dict(zip(names, voxels(found, theta).tolist(), strict=True))
    assert max(coarse.values()) < 0.7, coarse
    assert correlation.min() > 0.98
    fine = dict(
        zip(names, voxels(align_further(FINEST, generated, reference, whole, found), theta).tolist(), strict=True)
    )
    assert max(fine.values()) < 0.5, fine


def test_of_a_volume_only_the_window_is_aligned():
    reference = volume().expand(3, -1, -1, -1, -1)
    theta = to_volume("z", 6, 0.95, (0.02, -0.02, 0.01))
    masks = window_masks(VOLUME_SIDE, 3)[[4, 13, 22]]  # the corners hold little of the ellipsoid
    mixed = torch.where(masks > 0, moved(reference, theta), volume(seed=9))
    found, _ = aligned(mixed, reference, masks)
    assert voxels(found, theta).max() < 1.5
    assert voxels(aligned(mixed, reference, torch.ones_like(masks))[0], theta).min() > 2


@pytest.mark.parametrize("name", NEAR)
def test_a_map_is_found_wherever_it_lies_within_reach(name):
    reference, theta = oval(4), to_reference(**NEAR[name])
    generated = moved(reference, theta)
    found, correlation = aligned(generated, reference, torch.ones_like(reference))
    assert pixels(found, theta).max() < 0.5
    assert correlation.min() > 0.99


@pytest.mark.parametrize("name", ["rotation_30", "shift_0.4_0", "all"])
def test_inverted_contrast_is_aligned_as_well(name):
    reference, theta = oval(4), to_reference(**NEAR[name])
    generated, whole = moved(reference, theta), torch.ones_like(reference)
    plain, plain_correlation = aligned(generated, reference, whole)
    inverted, correlation = aligned(1 - generated, reference, whole)
    assert pixels(inverted, theta).max() < 0.5
    assert torch.allclose(plain, inverted, atol=1e-3)
    assert torch.allclose(plain_correlation, correlation, atol=1e-3)
    fine, other = (align_further(FINEST, images, reference, whole, inverted) for images in (generated, 1 - generated))
    assert torch.allclose(fine, other, atol=1e-3)


OUTSIDE = {
    "another_image": lambda like, g: texture(len(like), seed=9),
    "noise": lambda like, g: torch.rand(like.shape, generator=g),
    "grey": lambda like, g: torch.full_like(like, 0.5),
    "black": lambda like, g: torch.zeros_like(like),
}


@pytest.mark.parametrize(
    "outside",
    [
        "another_image",
        "noise",
        "grey",
        "black",
    ],
)
def test_a_window_is_aligned_whatever_is_outside(outside, generator):
    reference, theta = texture(9, seed=3), to_reference(8, 0.95, 0.025, -0.02)
    copy, masks = moved(reference, theta), window_masks(SIDE)[:9]
    mixed = torch.where(masks > 0, copy, OUTSIDE[outside](copy, generator))
    found, expected = (aligned(images, reference, masks)[0] for images in (mixed, copy))
    assert pixels(found, theta).max() < 1.2
    assert pixels(found, expected).max() < 0.5
    # The finest step sees a little of it: contrast is local to about 8 pixels.
    assert pixels(align_further(FINEST, mixed, reference, masks, found), theta).max() < 2


def test_without_a_mask_what_is_outside_decides():
    reference, theta = texture(9, seed=3), to_reference(8, 0.95, 0.025, -0.02)
    masks = window_masks(SIDE)[:9]
    mixed = torch.where(masks > 0, moved(reference, theta), texture(9, seed=9))
    assert pixels(aligned(mixed, reference, torch.ones_like(masks))[0], theta).median() > 5


def test_pairs_do_not_depend_on_each_other():
    reference, masks = texture(4), window_masks(SIDE)[[0, 4, -1, 7]]
    generated = moved(reference, to_reference(10, 0.9, 0.1)).roll(1, 0)
    generated[0] = 0.5
    together = aligned(generated, reference, masks)
    for i in range(4):
        alone = aligned(generated[i : i + 1], reference[i : i + 1], masks[i : i + 1])
        assert torch.allclose(alone[0][0], together[0][i], atol=1e-2)
        assert torch.allclose(alone[1][0], together[1][i], atol=1e-3)


# Refusal: nothing to align


@pytest.mark.parametrize("part", [-1, 0, 13])
def test_flat_volumes_give_finite_maps_and_no_correlation(part):
    structured, empty = volume(), torch.full_like(volume(), 0.5)
    generated, reference = torch.cat([empty, structured, empty]), torch.cat([structured, empty, empty])
    mask = window_masks(VOLUME_SIDE, 3)[[part] * 3]
    theta, correlation = aligned(generated, reference, mask)
    assert theta.isfinite().all()
    assert align_further(FINEST, generated, reference, mask, theta).isfinite().all()
    assert correlation.abs().max() < 0.05
    assert coarsely(generated, reference, mask)[1].abs().max() < 0.05


@pytest.mark.parametrize("part", [-1, 0, 4])
@pytest.mark.parametrize("flat", ["generated", "reference", "both", "in_the_window"])
def test_flat_images_give_finite_maps_and_no_correlation(flat, part):
    generated, reference, empty = (
        oval(2),
        oval(2, seed=1),
        torch.full((2, 1, SIDE, SIDE), 0.5),
    )
    mask = window_masks(SIDE)[[part, part]]
    generated = empty if flat in ("generated", "both") else generated
    generated = torch.where(mask > 0, empty, generated) if flat == "in_the_window" else generated
    reference = empty if flat in ("reference", "both") else reference
    theta, correlation = aligned(generated, reference, mask)
    assert theta.isfinite().all()
    assert align_further(FINEST, generated, reference, mask, theta).isfinite().all()
    assert correlation.abs().max() < 0.05
    assert coarsely(generated, reference, mask)[1].abs().max() < 0.05
