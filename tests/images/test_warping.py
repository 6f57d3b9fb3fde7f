"""Warped images are those of torch, what lies outside is what the border says, and rounding does not move the edge."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from factories import clouds

from mi_callback.images.warping import Border, lie_inside, map_places, warp

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
        reach = grid.abs().amax(dim=-1)  # on the edge itself rounding decides what torch's grid says
        assert (inside[:, 0][reach < 1 - 1e-5] == 1).all()
        assert (inside[:, 0][reach > 1 + 1e-5] == 0).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_displacement_of_nothing_is_an_affine_warp(dims):
    images = clouds(2, dims=dims)
    theta = AFFINE[dims].expand(2, -1, -1)
    plain, inside = warp(images, theta)
    displaced, inside_too = warp(images, theta, torch.zeros(2, dims, *images.shape[2:]))
    assert torch.allclose(plain, displaced, atol=1e-4)
    assert torch.equal(inside, inside_too)


THETA = {
    2: torch.tensor([[1.3, 0.2, 0.1], [-0.1, 1.2, -0.15]]),
    3: torch.tensor([[1.3, 0.2, 0.05, 0.1], [-0.1, 1.1, 0.0, -0.05], [0.1, -0.15, 1.4, 0.2]]),
}


def look_up(image: torch.Tensor, place: list[int], border: Border) -> float:
    """The value of a pixel that may lie outside."""
    inside = all(0 <= at < side for at, side in zip(place, image.shape, strict=True))
    if border is Border.NEAREST or inside:
        return float(image[tuple(min(max(at, 0), side - 1) for at, side in zip(place, image.shape, strict=True))])
    return 0.0 if border is Border.ZERO else float(image.min())


def interpolate(image: torch.Tensor, place: list[float], border: Border) -> float:
    """Linear between the pixels around a place, counted in pixels from the centre of the first."""
    total = 0.0
    for corner in itertools.product((0, 1), repeat=image.ndim):
        near = [math.floor(at) + c for at, c in zip(place, corner, strict=True)]
        share = math.prod(1 - abs(at - n) for at, n in zip(place, near, strict=True))
        total += share * look_up(image, near, border)
    return total


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize(("shape", "size"), [((7, 9), None), ((7, 9), (5, 4)), ((4, 5, 6), (3, 3, 4))])
def test_a_warp_is_linear_interpolation_with_what_the_border_says_outside(shape, size, border, generator):
    dims, size = len(shape), size or shape
    images = torch.rand(2, 2, *shape, generator=generator) + 0.5
    images[:, 1] += 1  # the darkest pixel is that of all channels
    theta = THETA[dims].expand(2, -1, -1)
    shift = 0.1 * torch.randn(2, dims, *size, generator=generator)
    found = warp(images, theta, shift, size, border).images
    assert found.shape == (2, 2, *size)
    for i, pixel in itertools.product(range(2), itertools.product(*map(range, size))):
        at = [2 * (k + 0.5) / side - 1 for k, side in zip(pixel, size, strict=True)][::-1]  # x first
        at = [a + float(shift[(i, axis, *pixel)]) for axis, a in enumerate(at)]
        at = [sum(float(row[k]) * at[k] for k in range(dims)) + float(row[-1]) for row in THETA[dims]]
        place = [(a + 1) * side / 2 - 0.5 for a, side in zip(at[::-1], shape, strict=True)]
        floor = images[i].min()
        for c in range(2):
            image = images[i, c] - floor if border is Border.DARKEST else images[i, c]
            expected = interpolate(image, place, Border.ZERO if border is Border.DARKEST else border)
            expected += float(floor) if border is Border.DARKEST else 0
            assert float(found[(i, c, *pixel)]) == pytest.approx(expected, abs=1e-4)


def test_the_outer_edge_is_inside_however_it_was_rounded():
    edge = torch.tensor(1.0)
    up = torch.nextafter(torch.nextafter(edge, torch.tensor(2.0)), torch.tensor(2.0))
    places = torch.stack([edge, -edge, up, -up, torch.tensor(1.001), torch.tensor(-1.001)]).view(1, 1, -1)
    assert lie_inside(places).tolist() == [[True] * 4 + [False] * 2]


def test_places_on_the_edge_are_inside_whatever_the_order_of_sums():
    """Half a pixel beyond the last centre, reached through shifts that no binary number holds."""
    for side in (10, 12, 24, 48, 96):
        for pixels in (0.5, 1.5, 2.5):
            theta = torch.tensor([[1.0, 0.0, 2 * pixels / side], [0.0, 1.0, 0.0]])[None]
            inside = lie_inside(map_places(theta, (side, side)))[0]
            assert inside[:, : side - int(pixels)].all()
            assert not inside[:, side - int(pixels) :].any()
