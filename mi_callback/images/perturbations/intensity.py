"""Changes of grey values: gain, gamma, inversion, other contrasts."""

import torch
from torch import Tensor

from mi_callback.images.contrast.curves import apply_curve
from mi_callback.images.perturbations.strength import Strength, per_pixel, rescale_to_one


def scale_intensity(images: Tensor, factor: Strength) -> Tensor:
    return (images * per_pixel(factor, images)).clamp(0, 1)


def gamma(images: Tensor, exponent: Strength) -> Tensor:
    return images.clamp(0, 1) ** per_pixel(exponent, images)


def invert(images: Tensor) -> Tensor:
    return 1 - images


def remap(images: Tensor, generator: torch.Generator, knots: int = 5) -> Tensor:
    """Another contrast: grey values through a random piecewise linear curve that need not rise. Black stays black."""
    values = torch.rand((len(images), knots), generator=generator, device=generator.device).to(images)
    return rescale_to_one(apply_curve(images, torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)))


def t2_like(images: Tensor) -> Tensor:
    """T1 made to look like T2: fluid, which is dark, becomes brightest, white matter darker than grey; black stays."""
    values = torch.tensor([0.0, 0.6, 1.0, 0.85, 0.7, 0.55, 0.48, 0.42, 0.38, 0.5, 0.6])
    return apply_curve(images, values.to(images).expand(len(images), -1))
