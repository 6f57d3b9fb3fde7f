"""Patterns laid over an image, which hide what is below from a comparison of neighbourhoods."""

import math

import torch

from mi_callback.images.perturbations.strength import Strength, per_pixel
from mi_callback.types import Images


def stripes(images: Images, amplitude: Strength, period: Strength, angle: Strength = 0.0) -> Images:
    """A plane wave added, as a spike in k-space adds it; cut to [0, 1].

    Args:
        amplitude: Of the wave.
        period: In pixels.
        angle: Of its direction, in degrees; 0 for upright stripes, 90 for level ones.
    """
    y, x = (torch.arange(side).to(images) for side in images.shape[-2:])
    amplitude, period, turn = (per_pixel(value, images) for value in (amplitude, period, angle))
    turn = torch.deg2rad(turn)
    along = x * turn.cos() + y[:, None] * turn.sin()
    return (images + amplitude * (2 * math.pi * along / period).sin()).clamp(0, 1)


def grid(images: Images, period: int) -> Images:
    """White lines of one pixel, upright and level, every `period` pixels: what was below them is lost."""
    y, x = (torch.arange(side, device=images.device) % period == 0 for side in images.shape[-2:])
    return images.masked_fill(y[:, None] | x, 1.0)
