"""Warped images are those of torch, and what lies outside of them is told."""

import pytest
import torch
import torch.nn.functional as F
from factories import clouds

from mi_callback.images.warping import warp

pytestmark = pytest.mark.numeric

AFFINE = {
    2: torch.tensor([[0.9, 0.2, 0.1], [-0.1, 1.1, -0.05]]),
    3: torch.tensor([[0.9, 0.2, 0.05, 0.1], [-0.1, 1.1, 0.0, -0.05], [0.1, -0.15, 0.95, 0.2]]),
}


@pytest.mark.parametrize("shape", [(96, 96), (7, 9), (12, 12, 12), (6, 9, 7)])
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
    images = clouds(2, dims=dims)
    theta = AFFINE[dims].expand(2, -1, -1)
    plain, inside = warp(images, theta)
    displaced, inside_too = warp(images, theta, torch.zeros(2, dims, *images.shape[2:]))
    assert torch.allclose(plain, displaced, atol=1e-4)
    assert (inside != inside_too).float().mean() < 1e-3
