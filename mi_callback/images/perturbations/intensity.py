"""Changes of grey values: gain, gamma, inversion, other contrasts."""

import torch

from mi_callback.images.contrast.curves import apply_curve
from mi_callback.images.perturbations.strength import Strength, per_pixel, rescale_to_one
from mi_callback.types import Images

T2_LIKE = (0.0, 0.6, 1.0, 0.85, 0.7, 0.55, 0.48, 0.42, 0.38, 0.5, 0.6)
"""Grey values of T1, evenly spread from 0 to 1, as T2 would show them: fluid, dark in T1, is brightest, and white
matter is darker than grey matter. Drawn by hand; no curve is exact, since tissues of one T1 may differ in T2."""


def scale_intensity(images: Images, factor: Strength) -> Images:
    """Grey values times `factor`, above 0, clipped to [0, 1]."""
    return (images * per_pixel(factor, images)).clamp(0, 1)


def gamma(images: Images, exponent: Strength) -> Images:
    """Grey values to the power of `exponent`, above 0: below 1 brighter, above 1 darker; black and white stay."""
    return images.clamp(0, 1) ** per_pixel(exponent, images)


def invert(images: Images) -> Images:
    """1 − x: black becomes white."""
    return 1 - images


def remap(images: Images, generator: torch.Generator, knots: int = 5) -> Images:
    """Another contrast: grey values through a random piecewise linear curve that need not rise.

    Args:
        images: In [0, 1]; black stays black, and the brightest pixel becomes 1.
        generator: Draws the values at the knots, uniformly from [0, 1].
        knots: Evenly spread over (0, 1].
    """
    values = torch.rand((len(images), knots), generator=generator, device=generator.device).to(images)
    return rescale_to_one(apply_curve(images, torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)))


def t2_like(images: Images) -> Images:
    """T1 made to look like T2: fluid, which is dark, becomes brightest, white matter darker than grey; black stays."""
    return apply_curve(images, torch.tensor(T2_LIKE).to(images).expand(len(images), -1))
