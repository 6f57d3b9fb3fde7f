"""A smooth warp is found, and does not turn one image into another."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mi_callback.images.filters import gradient, standardise
from mi_callback.images.perturbations import VOLUME_PERTURBATIONS, elastic
from mi_callback.images.resizing import shrink
from mi_callback.images.thumbnails import THUMBNAIL_SIDE
from mi_callback.images.warping import warp
from mi_callback.registration import free_form
from mi_callback.registration.free_form import (
    CONTROLS,
    DAMPING,
    STIFFNESS,
    _field,
    _line,
    _normal_equations,
    _penalty,
    refine,
)
from mi_callback.registration.local_correlation import local_correlation
from mi_callback.registration.schedule import register

SIDE, VOLUME_SIDE = THUMBNAIL_SIDE[2], THUMBNAIL_SIDE[3]

IDENTITY = torch.eye(2, 3)


def smooth(n: int, seed: int = 0, dims: int = 2) -> torch.Tensor:
    """Images with structure at all scales, `(n, 1, SIDE, SIDE)` in [0, 1], or volumes."""
    generator = torch.Generator().manual_seed(seed)
    if dims == 3:
        layers = [
            F.interpolate(torch.rand(n, 1, k, k, k, generator=generator), (VOLUME_SIDE,) * 3, mode="trilinear")
            for k in (5, 9, 16)
        ]
        image = sum(layers)
        low, high = (getattr(image, end)((2, 3, 4), keepdim=True) for end in ("amin", "amax"))
        return (image - low) / (high - low)
    layers = [
        F.interpolate(torch.rand(n, 1, k, k, generator=generator), (SIDE, SIDE), mode="bicubic") for k in (6, 12, 24)
    ]
    image = sum(layers)
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    return (image - low) / (high - low)


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    return (images[:, 0] * 255).round().to(torch.uint8)


def test_splines_sum_to_one_inside_and_reproduce_a_straight_line():
    side, count = 24, CONTROLS[2]
    line = _line(side, count)
    assert torch.allclose(line.sum(dim=1), torch.ones(side), atol=1e-6)
    straight = torch.arange(count).float().expand(count, count)  # control points of f(x, y) = x
    controls = torch.stack([straight, straight.T])[None]
    expected = (torch.arange(side) + 0.5) * (count - 3) / side + 1
    field = _field(controls, line)[0]
    assert torch.allclose(field[0], expected.expand(side, side), atol=1e-5)
    assert torch.allclose(field[1], expected[:, None].expand(side, side), atol=1e-5)


def test_splines_reproduce_a_straight_line_along_each_axis_of_a_volume():
    side, count = 12, CONTROLS[3]
    straight = torch.arange(count).float()
    grid = torch.stack(torch.meshgrid(straight, straight, straight, indexing="ij")).flip(0)  # x, y, z
    field = _field(grid[None], _line(side, count))[0]
    assert field.shape == (3, side, side, side)
    expected = (torch.arange(side) + 0.5) * (count - 3) / side + 1
    assert torch.allclose(field[0], expected.expand(side, side, side), atol=1e-5)
    assert torch.allclose(field[1], expected[:, None].expand(side, side, side), atol=1e-5)
    assert torch.allclose(field[2], expected[:, None, None].expand(side, side, side), atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (6, 6, 6)])
def test_the_normal_equations_are_those_of_all_splines_at_all_pixels(shape, generator):
    dims, side, count = len(shape), shape[0], 4
    slopes = [torch.rand(2, *shape, generator=generator) - 0.5 for _ in shape]
    line, penalty = _line(side, count), _penalty(count, dims)
    scale, factor = _normal_equations(slopes, line, STIFFNESS[dims] * penalty)
    places, controls = (list(itertools.product(range(k), repeat=dims)) for k in (side, count))
    spline = np.array([[np.prod([float(line[a, c]) for a, c in zip(at, knot, strict=True)]) for knot in controls]
                       for at in places])  # fmt: skip
    neighbours = np.zeros((len(controls),) * 2)
    for a, one in enumerate(controls):
        for b, other in enumerate(controls):
            if sum(abs(i - j) for i, j in zip(one, other, strict=True)) == 1:
                neighbours[a, a] += 1
                neighbours[a, b] -= 1
    assert np.allclose(penalty.numpy(), neighbours, atol=1e-5)
    for pair in range(2):
        columns = [slope[pair].flatten().double().numpy()[:, None] * spline for slope in slopes]
        jacobian = np.concatenate(columns, axis=1)
        data = jacobian.T @ jacobian
        expected = np.diag(data).mean()
        assert float(scale[pair]) == pytest.approx(expected, rel=1e-4)
        regular = STIFFNESS[dims] * neighbours + DAMPING * np.eye(len(controls))
        matrix = data + expected * np.kron(np.eye(dims), regular)
        assert np.allclose((factor[pair] @ factor[pair].T).numpy(), matrix, atol=1e-4 * expected)


AFFINE = {
    2: torch.tensor([[0.9, 0.2, 0.1], [-0.1, 1.1, -0.05]]),
    3: torch.tensor([[0.9, 0.2, 0.05, 0.1], [-0.1, 1.1, 0.0, -0.05], [0.1, -0.15, 0.95, 0.2]]),
}


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (7, 9), (12, 12, 12), (6, 9, 7)])
def test_a_warp_is_that_of_torch_after_a_displacement(shape, generator):
    dims = len(shape)
    images = torch.rand(2, 1, *shape, generator=generator)
    theta = AFFINE[dims].expand(2, -1, -1)
    shift = 0.1 * torch.randn(2, dims, *shape, generator=generator)
    for displacement in (None, shift):
        identity = torch.eye(dims, dims + 1).expand(2, -1, -1)
        places = F.affine_grid(identity, list(images.shape), align_corners=False)
        places = places if displacement is None else places + displacement.movedim(1, -1)
        grid = torch.einsum("nij,n...j->n...i", theta, F.pad(places, (0, 1), value=1.0))
        expected = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
        found, inside = warp(images, theta, displacement)
        assert torch.allclose(found, expected, atol=1e-4)
        assert (inside[:, 0].bool() != (grid.abs() <= 1).all(dim=-1)).float().mean() < 1e-3


@pytest.mark.parametrize("dims", [2, 3])
def test_a_displacement_of_nothing_is_an_affine_warp(dims):
    images = smooth(2, dims=dims)
    theta = AFFINE[dims].expand(2, -1, -1)
    plain, inside = warp(images, theta)
    displaced, inside_too = warp(images, theta, torch.zeros(2, dims, *images.shape[2:]))
    assert torch.allclose(plain, displaced, atol=1e-4)
    assert (inside != inside_too).float().mean() < 1e-3


@pytest.mark.parametrize("shape", [(8, 8), (6, 6, 6)])
def test_shrinking_standardising_and_slopes_are_their_definitions(shape, generator):
    dims, side = len(shape), shape[0]
    images = torch.rand(2, 1, *shape, generator=generator)
    mask = torch.ones_like(images)
    mask[..., -2:] = 0
    small = shrink(images, side // 2)
    for place in itertools.product(range(side // 2), repeat=dims):
        block = images[(..., *(slice(2 * at, 2 * at + 2) for at in place))]
        assert torch.allclose(small[(..., *place)], block.flatten(2).mean(dim=2), atol=1e-6)
    for image, found, where in zip(images, standardise(images, mask), mask > 0, strict=True):
        values = image[where].double()
        expected = (image.double() - values.mean()) / (values.var(unbiased=False) + 1e-6).sqrt()
        assert torch.allclose(found.double(), expected, atol=1e-4)
    slopes = gradient(images, mask)
    assert len(slopes) == dims
    for k, slope in enumerate(slopes):  # x first
        axis = 1 + dims - k
        for place in itertools.product(range(1, side - 1), repeat=dims):
            ahead, behind = ([at + by * (j == dims - 1 - k) for j, at in enumerate(place)] for by in (1, -1))
            known = place[-1] + 1 < side - 2  # no neighbour, diagonal ones included, is outside
            expected = (images[(..., *ahead)] - images[(..., *behind)]) / 2 * known
            assert torch.allclose(slope[(..., *place)], expected, atol=1e-6), (axis, place)


@pytest.mark.parametrize("dims", [2, 3])
def test_identical_images_are_not_warped(dims):
    images = smooth(3, dims=dims)
    identity = torch.eye(dims, dims + 1).expand(3, -1, -1)
    assert refine(images, images, torch.ones_like(images), identity).abs().max() < 1e-4


def bent(volumes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Volumes under a smooth warp of about a voxel along each axis."""
    return VOLUME_PERTURBATIONS["elastic_1"](volumes, generator)


@pytest.mark.parametrize("turned", [False, True])
def test_a_smooth_warp_of_volumes_is_undone(turned, generator):
    moving = smooth(3, dims=3)
    theta = torch.eye(3, 4)
    if turned:
        theta = torch.tensor([[0.95, 0.2, 0, 0.05], [-0.2, 0.95, 0, 0], [0, 0, 1, -0.05]])
    theta = theta.expand(3, -1, -1)
    controls = torch.randn(3, 3, *(CONTROLS[3],) * 3, generator=generator)
    bend = _field(2.0 * controls * 2 / VOLUME_SIDE, _line(VOLUME_SIDE, CONTROLS[3]))
    before, fixed = warp(moving, theta)[0], warp(moving, theta, bend)[0]
    displacement = refine(fixed, moving, torch.ones_like(fixed), theta)
    assert displacement.shape == (3, 3, *(VOLUME_SIDE,) * 3)
    after, _ = warp(moving, theta, displacement)
    inner = (..., *(slice(8, -8),) * 3)
    error = [float((image - fixed)[inner].square().mean()) for image in (before, after)]
    assert error[1] < 0.1 * error[0]


def test_elastic_copies_of_volumes_stand_out_and_strangers_gain_little(generator):
    bank, others = smooth(3, dims=3), smooth(3, seed=1, dims=3)
    copies = register(as_bytes(bent(bank, generator)), as_bytes(bank))
    novel = register(as_bytes(others), as_bytes(bank))
    assert copies.lncc.min() > 0.85
    assert novel.lncc.max() < copies.lncc.min() - 0.1
    identity = torch.eye(3, 4).expand(3, -1, -1)
    whole = torch.ones_like(bank)
    stiff = [warp(bank, identity)[0], warp(bank, identity, refine(others, bank, whole, identity))[0]]
    plain, warped = (local_correlation(others, image, whole).best() for image in stiff)
    assert (warped - plain).max() < 0.3


@pytest.mark.parametrize("theta", [IDENTITY, torch.tensor([[0.95, 0.2, 0.05], [-0.2, 0.95, 0.0]])])
def test_a_smooth_warp_is_undone_before_any_affine_map(theta, generator):
    moving = smooth(6)
    theta = theta.expand(6, 2, 3)
    fixed = elastic(warp(moving, theta)[0], 2.0, generator)
    before, _ = warp(moving, theta)
    after, _ = warp(moving, theta, refine(fixed, moving, torch.ones_like(fixed), theta))
    # Away from the border, where the turned image has no content.
    error = [float((image - fixed)[..., 16:-16, 16:-16].square().mean()) for image in (before, after)]
    assert error[1] < 0.25 * error[0]


def test_elastic_copies_stand_out_and_different_images_stay_different(generator):
    bank, others = smooth(8), smooth(8, seed=1)
    copies = register(as_bytes(elastic(bank, 2.0, generator)), as_bytes(bank))
    novel = register(as_bytes(others), as_bytes(bank))
    assert copies.lncc.min() > 0.85
    assert novel.lncc.max() < copies.lncc.min() - 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_penalty_keeps_the_warp_of_strangers_smooth(dims, monkeypatch):
    fixed, moving = smooth(3, dims=dims), smooth(3, seed=1, dims=dims)
    theta = torch.eye(dims, dims + 1).expand(3, -1, -1)
    bends = []
    for weight in (STIFFNESS[dims], STIFFNESS[dims] / 100):
        monkeypatch.setitem(free_form.STIFFNESS, dims, weight)
        field = refine(fixed, moving, torch.ones_like(fixed), theta)
        bends.append(max(float(field.diff(dim=axis).square().mean()) for axis in range(2, dims + 2)))
    assert 3 * bends[0] < bends[1]


def test_pairs_do_not_depend_on_each_other():
    fixed, moving = smooth(4), smooth(4, seed=1)
    theta = IDENTITY.expand(4, 2, 3)
    together = refine(fixed, moving, torch.ones_like(fixed), theta)
    alone = torch.cat(
        [refine(fixed[i : i + 1], moving[i : i + 1], torch.ones_like(fixed[:1]), theta[:1]) for i in range(4)]
    )
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(together, refine(fixed, moving, torch.ones_like(fixed), theta))


@pytest.mark.parametrize("dims", [2, 3])
def test_flat_images_stay_finite(dims):
    image = smooth(1, dims=dims)
    flat = torch.full_like(image, 0.5)
    for fixed, moving in ((flat, image), (image, flat), (flat, flat)):
        assert refine(fixed, moving, torch.ones_like(fixed), torch.eye(dims, dims + 1)[None]).isfinite().all()
