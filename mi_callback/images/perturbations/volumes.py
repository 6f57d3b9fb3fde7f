"""Changes of images made into changes of volumes."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_planes(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A change of images as one of volumes `(n, c, d, h, w)`: every slice alike, noise apart."""

    def changed(*arguments: Tensor | torch.Generator) -> Tensor:
        (channels, depth), *_ = (a.shape[1:3] for a in arguments if isinstance(a, Tensor))
        slices = change(*(a.flatten(1, 2) if isinstance(a, Tensor) else a for a in arguments))
        return slices.unflatten(1, (channels, depth))

    return changed


def about_every_axis(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A change of images as one of volumes, made in the slices along each of the three axes, one after the other."""

    def changed(volumes: Tensor, generator: torch.Generator) -> Tensor:
        for _ in range(3):
            volumes = in_planes(change)(volumes, generator).permute(0, 1, 4, 2, 3)
        return volumes

    return changed
