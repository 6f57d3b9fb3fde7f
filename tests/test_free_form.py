"""A smooth warp is found, and does not turn one image into another."""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.free_form import CONTROLS, _field, _line, refine
from mi_callback.perturbations import elastic
from mi_callback.registration import SIZE, register
from mi_callback.warping import warp

IDENTITY = torch.eye(2, 3)


def smooth(n: int, seed: int = 0) -> torch.Tensor:
    """Images with structure at all scales, `(n, 1, SIZE, SIZE)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        F.interpolate(torch.rand(n, 1, k, k, generator=generator), (SIZE, SIZE), mode="bicubic") for k in (6, 12, 24)
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
    assert torch.allclose(field[..., 0], expected.expand(side, side), atol=1e-5)
    assert torch.allclose(field[..., 1], expected[:, None].expand(side, side), atol=1e-5)


def test_a_displacement_of_nothing_is_an_affine_warp():
    images = smooth(2)
    theta = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 1.1, -0.05]]).expand(2, 2, 3)
    plain, inside = warp(images, theta)
    displaced, inside_too = warp(images, theta, torch.zeros(2, SIZE, SIZE, 2))
    assert torch.allclose(plain, displaced, atol=1e-4)
    assert (inside != inside_too).float().mean() < 1e-3


def test_identical_images_are_not_warped():
    images = smooth(3)
    assert refine(images, images, torch.ones_like(images), IDENTITY.expand(3, 2, 3)).abs().max() < 1e-4


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


def test_pairs_do_not_depend_on_each_other():
    fixed, moving = smooth(4), smooth(4, seed=1)
    theta = IDENTITY.expand(4, 2, 3)
    together = refine(fixed, moving, torch.ones_like(fixed), theta)
    alone = torch.cat(
        [refine(fixed[i : i + 1], moving[i : i + 1], torch.ones_like(fixed[:1]), theta[:1]) for i in range(4)]
    )
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(together, refine(fixed, moving, torch.ones_like(fixed), theta))


def test_flat_images_stay_finite():
    flat = torch.full((1, 1, SIZE, SIZE), 0.5)
    for fixed, moving in ((flat, smooth(1)), (smooth(1), flat), (flat, flat)):
        assert refine(fixed, moving, torch.ones_like(fixed), IDENTITY[None]).isfinite().all()
