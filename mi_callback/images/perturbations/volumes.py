"""Changes of images made into changes of volumes `(n, c, d, h, w)`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Volumes = Float[Tensor, "n c d h w"]


def in_planes(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A change of images as one of volumes: every slice across the depth alike, but for noise."""

    def change_slices(*arguments: Volumes | torch.Generator) -> Volumes:
        (channels, depth), *_ = (a.shape[1:3] for a in arguments if isinstance(a, Tensor))
        slices = change(*(a.flatten(1, 2) if isinstance(a, Tensor) else a for a in arguments))
        return slices.unflatten(1, (channels, depth))

    return change_slices


def about_every_axis(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A change of images as one of volumes, made in the slices across each of the three axes, one after the other."""

    def change_thrice(volumes: Volumes, generator: torch.Generator) -> Volumes:
        for _ in range(3):
            volumes = in_planes(change)(volumes, generator).permute(0, 1, 4, 2, 3)
        return volumes

    return change_thrice
