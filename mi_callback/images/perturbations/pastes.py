"""Changes that mix two people: blends, pasted bands, implanted centres."""

import torch
from torch import Tensor

from mi_callback.images.perturbations.strength import Strength, per_pixel


def blend(images: Tensor, others: Tensor, share: Strength) -> Tensor:
    """Mix in `share` of another image."""
    return torch.lerp(images, others, per_pixel(share, images))


def paste(images: Tensor, others: Tensor, share: Strength, generator: torch.Generator) -> Tensor:
    """Replace `share` of the area by that part of another image: a band at one of the four sides, hard-edged."""
    n, _, h, w = images.shape
    side = torch.randint(4, (n,), generator=generator, device=generator.device).to(images.device)
    y = (torch.arange(h, device=images.device) + 0.5)[:, None].expand(h, w) / h
    x = (torch.arange(w, device=images.device) + 0.5).expand(h, w) / w
    depth = torch.stack([x, 1 - x, y, 1 - y])[side][:, None]
    return torch.where(depth < per_pixel(share, images), others, images)


def implant(images: Tensor, others: Tensor, share: float = 0.5) -> Tensor:
    """Another image with the centre of this one in its place: a window of `share` of the sides."""
    h, w = images.shape[-2:]
    high, wide = round(share * h), round(share * w)
    top, left = (h - high) // 2, (w - wide) // 2
    place = (..., slice(top, top + high), slice(left, left + wide))
    received = others.clone()
    received[place] = images[place]
    return received
