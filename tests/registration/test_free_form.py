"""A smooth warp is found, and does not turn one image into another."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import VOLUME_SIDE, as_bytes, clouds

from mi_callback.images.perturbations import VOLUME_PERTURBATIONS, elastic
from mi_callback.images.warping import warp
from mi_callback.registration.config import registration_config
from mi_callback.registration.decision import best_region_lncc
from mi_callback.registration.free_form import _field, _normal_equations, _penalty, _splines, fit_displacement
from mi_callback.registration.local_correlation import correlate_locally
from mi_callback.registration.schedule import register

pytestmark = pytest.mark.numeric

CONFIG = {dims: registration_config(dims).free_form for dims in (2, 3)}

IDENTITY = torch.eye(2, 3)


def test_splines_sum_to_one_inside_and_reproduce_a_straight_splines():
    side, count = 24, CONFIG[2].controls
    splines = _splines(side, count)
    assert torch.allclose(splines.sum(dim=1), torch.ones(side), atol=1e-6)
    straight = torch.arange(count).float().expand(count, count)  # control points of f(x, y) = x
    controls = torch.stack([straight, straight.T])[None]
    expected = (torch.arange(side) + 0.5) * (count - 3) / side + 1
    field = _field(controls, splines)[0]
    assert torch.allclose(field[0], expected.expand(side, side), atol=1e-5)
    assert torch.allclose(field[1], expected[:, None].expand(side, side), atol=1e-5)


def test_splines_reproduce_a_straight_line_along_each_axis_of_a_volume():
    side, count = 12, CONFIG[3].controls
    straight = torch.arange(count).float()
    grid = torch.stack(torch.meshgrid(straight, straight, straight, indexing="ij")).flip(0)  # x, y, z
    field = _field(grid[None], _splines(side, count))[0]
    assert field.shape == (3, side, side, side)
    expected = (torch.arange(side) + 0.5) * (count - 3) / side + 1
    assert torch.allclose(field[0], expected.expand(side, side, side), atol=1e-5)
    assert torch.allclose(field[1], expected[:, None].expand(side, side, side), atol=1e-5)
    assert torch.allclose(field[2], expected[:, None, None].expand(side, side, side), atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (6, 6, 6)])
def test_the_normal_equations_are_those_of_all_splines_at_all_pixels(shape, generator):
    dims, side, count = len(shape), shape[0], 4
    slopes = [torch.rand(2, *shape, generator=generator) - 0.5 for _ in shape]
    splines, penalty = _splines(side, count), _penalty(count, dims)
    scale, factor = _normal_equations(slopes, splines, CONFIG[dims].stiffness * penalty, CONFIG[dims].damping)
    places, controls = (list(itertools.product(range(k), repeat=dims)) for k in (side, count))
    spline = np.array([[np.prod([float(splines[a, c]) for a, c in zip(at, knot, strict=True)]) for knot in controls]
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
        regular = CONFIG[dims].stiffness * neighbours + CONFIG[dims].damping * np.eye(len(controls))
        matrix = data + expected * np.kron(np.eye(dims), regular)
        assert np.allclose((factor[pair] @ factor[pair].T).numpy(), matrix, atol=1e-4 * expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_identical_images_are_not_warped(dims):
    images = clouds(3, dims=dims)
    identity = torch.eye(dims, dims + 1).expand(3, -1, -1)
    assert fit_displacement(images, images, torch.ones_like(images), identity, CONFIG[dims]).abs().max() < 1e-4


def bent(volumes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Volumes under a smooth warp of about a voxel along each axis."""
    return VOLUME_PERTURBATIONS["elastic_1"](volumes, generator)


@pytest.mark.parametrize("turned", [False, True])
def test_a_smooth_warp_of_volumes_is_undone(turned, generator):
    moving = clouds(3, dims=3)
    theta = torch.eye(3, 4)
    if turned:
        theta = torch.tensor([[0.95, 0.2, 0, 0.05], [-0.2, 0.95, 0, 0], [0, 0, 1, -0.05]])
    theta = theta.expand(3, -1, -1)
    controls = torch.randn(3, 3, *(CONFIG[3].controls,) * 3, generator=generator)
    bend = _field(2.0 * controls * 2 / VOLUME_SIDE, _splines(VOLUME_SIDE, CONFIG[3].controls))
    before, fixed = warp(moving, theta)[0], warp(moving, theta, bend)[0]
    displacement = fit_displacement(fixed, moving, torch.ones_like(fixed), theta, CONFIG[3])
    assert displacement.shape == (3, 3, *(VOLUME_SIDE,) * 3)
    after, _ = warp(moving, theta, displacement)
    inner = (..., *(slice(8, -8),) * 3)
    error = [float((image - fixed)[inner].square().mean()) for image in (before, after)]
    assert error[1] < 0.1 * error[0]


@pytest.mark.volumes
def test_elastic_copies_of_volumes_stand_out_and_strangers_gain_little(generator):
    bank, others = clouds(3, dims=3), clouds(3, seed=1, dims=3)
    copies = register(as_bytes(bent(bank, generator)), as_bytes(bank))
    novel = register(as_bytes(others), as_bytes(bank))
    assert copies.lncc.min() > 0.85
    assert novel.lncc.max() < copies.lncc.min() - 0.1
    identity = torch.eye(3, 4).expand(3, -1, -1)
    whole = torch.ones_like(bank)
    displacement = fit_displacement(others, bank, whole, identity, CONFIG[3])
    images = (warp(bank, identity)[0], warp(bank, identity, displacement)[0])
    config = registration_config(3)
    plain, warped = (
        best_region_lncc(correlate_locally(others, image, whole, config.local_correlation), config.decision)
        for image in images
    )
    assert (warped - plain).max() < 0.3


@pytest.mark.parametrize("theta", [IDENTITY, torch.tensor([[0.95, 0.2, 0.05], [-0.2, 0.95, 0.0]])])
def test_a_smooth_warp_is_undone_before_any_affine_map(theta, generator):
    moving = clouds(6)
    theta = theta.expand(6, 2, 3)
    fixed = elastic(warp(moving, theta)[0], 2.0, generator)
    before, _ = warp(moving, theta)
    after, _ = warp(moving, theta, fit_displacement(fixed, moving, torch.ones_like(fixed), theta, CONFIG[2]))
    # Away from the border, where the turned image has no content.
    error = [float((image - fixed)[..., 16:-16, 16:-16].square().mean()) for image in (before, after)]
    assert error[1] < 0.25 * error[0]


def test_elastic_copies_stand_out_and_different_images_stay_different(generator):
    bank, others = clouds(8), clouds(8, seed=1)
    copies = register(as_bytes(elastic(bank, 2.0, generator)), as_bytes(bank))
    novel = register(as_bytes(others), as_bytes(bank))
    assert copies.lncc.min() > 0.85
    assert novel.lncc.max() < copies.lncc.min() - 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_penalty_keeps_the_warp_of_strangers_smooth(dims):
    fixed, moving = clouds(3, dims=dims), clouds(3, seed=1, dims=dims)
    theta = torch.eye(dims, dims + 1).expand(3, -1, -1)
    bends = []
    for config in (CONFIG[dims], replace(CONFIG[dims], stiffness=CONFIG[dims].stiffness / 100)):
        field = fit_displacement(fixed, moving, torch.ones_like(fixed), theta, config)
        bends.append(max(float(field.diff(dim=axis).square().mean()) for axis in range(2, dims + 2)))
    assert 3 * bends[0] < bends[1]


def test_pairs_do_not_depend_on_each_other():
    fixed, moving = clouds(4), clouds(4, seed=1)
    whole, theta = torch.ones_like(fixed), IDENTITY.expand(4, 2, 3)
    together = fit_displacement(fixed, moving, whole, theta, CONFIG[2])
    rows = torch.arange(4).split(1)
    alone = [fit_displacement(fixed[i], moving[i], whole[i], theta[i], CONFIG[2]) for i in rows]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    assert torch.equal(together, fit_displacement(fixed, moving, whole, theta, CONFIG[2]))


@pytest.mark.parametrize("dims", [2, 3])
def test_flat_images_stay_finite(dims):
    image = clouds(1, dims=dims)
    flat = torch.full_like(image, 0.5)
    fixed, moving = torch.cat([flat, image, flat]), torch.cat([image, flat, flat])
    identity = torch.eye(dims, dims + 1).expand(3, -1, -1)
    assert fit_displacement(fixed, moving, torch.ones_like(fixed), identity, CONFIG[dims]).isfinite().all()
