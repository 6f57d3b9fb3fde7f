"""The starts of an alignment are the best of all combinations of the grid, on part of the image, in any contrast."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factories import SIDE, affine_map, ellipsoid, move, texture, volume_map

from mi_callback.images.resizing import shrink
from mi_callback.images.warping import warp
from mi_callback.images.windows import window_masks
from mi_callback.registration.affine_search import _linear_maps, _shift_all, _shifts_between, search_maps
from mi_callback.registration.config import AffineSearchConfig, registration_config

pytestmark = pytest.mark.numeric

IMAGES, VOLUMES = registration_config(2).search, registration_config(3).search


# Definition


def evidence_of_all_combinations(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, config: AffineSearchConfig
) -> list[tuple[float, torch.Tensor]]:
    """Of each rotation and magnification, and each shift by a part of a pixel of the search, the most, and the map."""
    dims, reach, side = fixed.ndim - 2, config.reach, config.side
    small = [shrink(images, side) for images in (fixed, moving, mask)]
    padded = [np.pad(images[0, 0].double().numpy(), reach) for images in (small[0], small[2])]
    tried = [(one, warp(small[1], one[None])) for one in F.pad(_linear_maps(dims, config), (0, 1))]
    tried += [
        (one, [shrink(images, side) for images in warp(moving, one[None])])
        for one in _shifts_between(dims, moving.shape[-1], side)
    ]
    best = []
    for one, under in tried:
        turned, inside = (images[0, 0].double().numpy() for images in under)
        found = []
        for shift in itertools.product(range(-reach, reach + 1), repeat=dims):
            window = tuple(slice(reach + by, reach + by + side) for by in shift)
            ours, ones = (images[window] for images in padded)
            there = ones * (inside > 0.99) > 0
            overlap = there.sum() / float(small[2].sum())
            if overlap >= config.least_overlap:
                correlation = np.corrcoef(ours[there], turned[there])[0, 1]
                found.append((-overlap * np.log(1 - correlation**2), shift))
        most, shift = max(found)
        along = torch.tensor([[-2 * by / side] for by in reversed(shift)])
        best.append((most, torch.cat([one[:, :dims], one[:, :dims] @ along + one[:, dims:]], dim=1)))
    return sorted(best, key=lambda pair: -pair[0])


def assert_starts_are_the_best(
    fixed: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, config: AffineSearchConfig
) -> None:
    dims = fixed.ndim - 2
    starts, evidence = search_maps(fixed, reference, mask, config)
    assert starts.shape == (1, config.starts, dims, dims + 1)
    expected = evidence_of_all_combinations(fixed, reference, mask, config)[: config.starts]
    for start, (_, theta) in zip(starts[0], expected, strict=True):
        assert torch.allclose(start, theta, atol=1e-5)
    assert float(evidence) == pytest.approx(expected[0][0], rel=1e-3)


@pytest.mark.parametrize(("sign", "part"), [(1, -1), (-1, 5), (0, -1)])
def test_the_starts_are_the_best_of_all_combinations(sign, part):
    reference = shrink(texture(1), 24)
    fixed = 0.5 + 0.4 * sign * shrink(move(texture(1), affine_map(-16, 0.8, (0.06, -0.09))), 24)
    if not sign:  # a corner alone is the same, of less area than a start must cover
        fixed = shrink(texture(1, seed=1), 24)
        fixed[..., :14, :14] = reference[..., 10:, 10:]
        assert IMAGES.least_overlap > (14 / 24) ** 2
    mask = (shrink(window_masks(SIDE)[[part]], 12) > 0.5).float().repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_starts_are_the_best(fixed, reference, mask, IMAGES)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_starts_of_volumes_are_the_best_of_all_combinations(inverted):
    reference = shrink(ellipsoid(1), VOLUMES.side)
    fixed = shrink(move(ellipsoid(1), volume_map("y", 15, 0.8, (0.1, -0.05, 0.15))), VOLUMES.side)
    fixed = 1 - fixed if inverted else fixed
    mask = torch.ones_like(fixed)
    mask[..., :3] = 0
    assert_starts_are_the_best(fixed, reference, mask, replace(VOLUMES, reach=2))


@pytest.mark.parametrize(("shift_x", "shift_y"), [(1, 0), (0, -1), (1, 1), (-3, 5)])
def test_shifts_by_an_odd_number_of_pixels_are_tried_too(shift_x, shift_y):
    # Lines as thin as a pixel, which no whole pixel of the search would show where they are.
    lines = (torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(3)) > 0.8).float()
    fixed = lines.roll((-shift_y, -shift_x), dims=(2, 3))
    start = search_maps(fixed, lines, torch.ones_like(lines), IMAGES)[0][0, 0]
    assert torch.allclose(start, torch.tensor([[1.0, 0, 2 * shift_x / 24], [0, 1, 2 * shift_y / 24]]), atol=1e-6)


def test_every_rotation_is_tried_with_every_magnification():
    maps = _linear_maps(2, IMAGES)
    found = {(round(float(torch.atan2(m[0, 1], m[0, 0]).rad2deg())), round(float(1 / m.det().sqrt()), 2)) for m in maps}
    angles = {0, *(sign * round(angle) for angle in IMAGES.rotations for sign in (1, -1))}
    assert found == set(itertools.product(angles, IMAGES.zooms))


def test_volumes_are_turned_about_every_axis_both_ways():
    maps = _linear_maps(3, VOLUMES)
    assert len(maps) == len(VOLUMES.zooms) * (1 + 2 * 3 * len(VOLUMES.rotations))
    found = set()
    for one in maps:
        zoom = float(one.det()) ** (-1 / 3)
        turn = (one * zoom).double().numpy()
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        about = [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]  # 2 sin · axis
        found.add((round(zoom, 2), *(round(math.degrees(math.asin(part / 2))) for part in about)))
    turns = [(0, 0, 0)]
    for axis, angle, sign in itertools.product(range(3), VOLUMES.rotations, (1, -1)):
        turns.append(tuple(round(sign * angle) if other == axis else 0 for other in range(3)))
    assert found == {(zoom, *turn) for zoom, turn in itertools.product(VOLUMES.zooms, turns)}


@pytest.mark.parametrize(("shape", "reach"), [((9, 9), 5), ((5, 6, 5), 4)])
def test_shifts_move_the_image_along_the_first_axis_slowest_and_fill_with_zero(shape, reach, generator):
    images = torch.rand(2, 1, *shape, generator=generator)
    shifts = list(itertools.product(range(-reach, reach + 1), repeat=len(shape)))
    found = _shift_all(images, reach)
    assert found.shape == (2, len(shifts), math.prod(shape))
    for k in range(0, len(shifts), 1 if len(shape) == 2 else 41):
        expected = torch.zeros(2, *shape)
        for place in itertools.product(*map(range, shape)):
            source = [at + by for at, by in zip(place, shifts[k], strict=True)]
            if all(0 <= at < side for at, side in zip(source, shape, strict=True)):
                expected[(slice(None), *place)] = images[(slice(None), 0, *source)]
        assert torch.equal(found[:, k].view(2, *shape), expected)


# Refusal: nothing to align


@pytest.mark.parametrize("flat", ["generated", "reference", "both"])
@pytest.mark.parametrize("dims", [2, 3])
def test_flat_images_give_finite_maps_and_no_evidence(flat, dims):
    structured = shrink(texture(1), 24) if dims == 2 else shrink(ellipsoid(1), 12)
    empty = torch.full_like(structured, 0.3)
    fixed = empty if flat in ("generated", "both") else structured
    moving = empty if flat in ("reference", "both") else structured
    starts, evidence = search_maps(fixed, moving, torch.ones_like(fixed), registration_config(dims).search)
    assert starts.isfinite().all()
    assert float(evidence) == pytest.approx(0, abs=1e-6)
