"""Strengths, one for all images or one per image, in the shapes that broadcast; and noise from a given generator."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mi_callback.types import Images

Strength = float | Float[Tensor, " n"]
"""How strong a change is: one number, or one for each image."""


def per_image(value: Strength, n: int, like: Tensor) -> Float[Tensor, " n"]:
    """A strength as one number for each of `n` images, where `like` is."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(n)


def per_pixel(value: Strength, like: Tensor) -> Float[Tensor, "n 1 1 1"]:
    """A strength in the shape that broadcasts over the pixels of images."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)


def draw_normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn where the generator lives: one seed gives one result on every device."""
    return torch.randn(*shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def draw_smooth(n: int, channels: int, points: int, like: Images, generator: torch.Generator) -> Images:
    """Standard normal numbers on a grid of `points` a side, bicubically interpolated to the size of images."""
    coarse = draw_normal((n, channels, points, points), like, generator)
    return F.interpolate(coarse, like.shape[-2:], mode="bicubic", align_corners=True)


def rescale_to_one(images: Images) -> Images:
    """Images whose brightest pixel is 1."""
    return images / images.flatten(1).amax(dim=1).clamp_min(1e-6).view(-1, 1, 1, 1)
