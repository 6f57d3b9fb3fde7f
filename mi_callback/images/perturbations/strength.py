"""Strengths, one for all images or one per image, in the shapes that broadcast; and noise from a given generator."""

import torch
from torch import Tensor

Strength = float | Tensor


def per_image(value: Strength, n: int, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(n)


def per_pixel(value: Strength, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)


def randn_like(shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn where the generator lives, so that one seed gives one result on every device.
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def rescale_to_one(images: Tensor) -> Tensor:
    return images / images.flatten(1).amax(dim=1).clamp_min(1e-6).view(-1, 1, 1, 1)
