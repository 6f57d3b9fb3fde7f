"""Changes that mix two people: blends, pasted bands, implanted centres."""

import torch

from mi_callback.images.perturbations.strength import Strength, per_pixel
from mi_callback.types import Images


def blend(images: Images, others: Images, share: Strength) -> Images:
    """(1 − share) of each image and `share`, in [0, 1], of another person's."""
    return torch.lerp(images, others, per_pixel(share, images))


def paste(images: Images, others: Images, share: Strength, generator: torch.Generator) -> Images:
    """Another person's image over `share`, in [0, 1], of the area: a band at one of the four sides, hard-edged.

    Args:
        images: Those that are covered in part.
        others: As many images of other people, of the same shape.
        share: Of the area that is the other's.
        generator: Draws the side.
    """
    n, _, h, w = images.shape
    side = torch.randint(4, (n,), generator=generator, device=generator.device).to(images.device)
    y = (torch.arange(h, device=images.device) + 0.5)[:, None].expand(h, w) / h
    x = (torch.arange(w, device=images.device) + 0.5).expand(h, w) / w
    depth = torch.stack([x, 1 - x, y, 1 - y])[side][:, None]
    return torch.where(depth < per_pixel(share, images), others, images)


def implant(images: Images, others: Images, share: float = 0.5) -> Images:
    """Another person's image with the centre of this one in its place: a window of `share` of the sides, in (0, 1]."""
    h, w = images.shape[-2:]
    high, wide = round(share * h), round(share * w)
    top, left = (h - high) // 2, (w - wide) // 2
    place = (..., slice(top, top + high), slice(left, left + wide))
    received = others.clone()
    received[place] = images[place]
    return received
