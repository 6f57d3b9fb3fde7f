"""How images look, whoever they show."""

import pytest
import torch

from mi_callback.images.filters import gaussian_blur
from mi_callback.images.quality.appearance import appearance


def pictures(n: int = 6, side: int = 48) -> torch.Tensor:
    """Smooth images in a dark frame, uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 1, 9, 9, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].clamp(0, 1) * 200
    images[:, :6], images[:, -6:], images[..., :6], images[..., -6:] = 0, 0, 0, 0
    return images.round().to(torch.uint8)


def changed(images: torch.Tensor, change) -> torch.Tensor:
    return change(images.float()).clamp(0, 255).round().to(torch.uint8)


def with_text(images: torch.Tensor) -> torch.Tensor:
    images = images.clone()
    images[:, 2:4, 2:14:2] = 255
    return images


@pytest.mark.parametrize("sigma", [5.0, 15.0])
def test_noise_is_its_standard_deviation(sigma, generator):
    flat = torch.full((8, 96, 96), 120.0)
    noisy = (flat + sigma * torch.randn(flat.shape, generator=generator)).round().to(torch.uint8)
    assert appearance(noisy)["noise"].tolist() == pytest.approx([sigma / 255] * 8, rel=0.05)


@pytest.mark.parametrize(
    ("name", "change", "sign"),
    [
        ("sharpness", lambda x: gaussian_blur(x, 1.5), -1),
        ("contrast", lambda x: 0.5 * x, -1),
        ("brightness", lambda x: x + 20, 1),
        ("burnt-in text", with_text, 1),
        ("bottom margin", lambda x: torch.cat([x[:, :-4], 0 * x[:, -4:] + 150], dim=1), 1),
        ("left margin", lambda x: torch.cat([0 * x[..., :4] + 150, x[..., 4:]], dim=2), 1),
        ("frame", lambda x: torch.cat([0 * x[:, :1] + 255, x[:, 1:]], dim=1), 1),
        ("filled", lambda x: x + 60, 1),
    ],
)
def test_each_statistic_sees_its_change_in_every_image(name, change, sign):
    images = pictures()
    before, after = appearance(images)[name], appearance(changed(images, change))[name]
    assert (sign * (after - before) > 0).all()


def test_a_volume_looks_as_its_middle_slice_does():
    images = pictures()
    volumes = torch.zeros(6, 5, 48, 48, dtype=torch.uint8)
    volumes[:, 2] = images
    ours, theirs = appearance(volumes), appearance(images)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_empty_and_full_images_have_finite_statistics():
    flat = torch.stack([torch.zeros(32, 32), torch.full((32, 32), 255)]).to(torch.uint8)
    assert all(values.isfinite().all() and values.dtype == torch.float64 for values in appearance(flat).values())
