"""Changes of size: antialiased interpolation, fitting into a frame with proportions kept, means of blocks."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mi_callback.types import Images


def letterbox(images: Images, size: Sequence[int]) -> Images:
    """Fit images or volumes into a size, centred, with their proportions kept, borders as dark as each one's minimum.

    Downsampling is antialiased, so a thumbnail does not depend on the phase of the pixel grid. Images of that size stay
    as they are.

    Args:
        images: Images or volumes.
        size: (h, w) or (d, h, w).

    Returns:
        Images `(n, c, *size)`.
    """
    shape = images.shape[2:]
    if tuple(shape) == tuple(size):
        return images
    factor = min(wanted / side for wanted, side in zip(size, shape, strict=True))
    inner = [min(wanted, max(1, round(side * factor))) for wanted, side in zip(size, shape, strict=True)]
    resized = resize(images, inner)
    first = [(wanted - side) // 2 for wanted, side in zip(size, inner, strict=True)]
    canvas = resized.flatten(2).amin(dim=2).view(*resized.shape[:2], *(1 for _ in size))
    canvas = canvas.expand(*resized.shape[:2], *size).clone()
    inside: tuple[Any, ...] = tuple(slice(start, start + side) for start, side in zip(first, inner, strict=True))
    canvas[(..., *inside)] = resized
    return canvas


def resize(images: Images, size: Sequence[int]) -> Images:
    """Images or volumes in another size, (h, w) or (d, h, w): (tri)linear, antialiased.

    Torch does not antialias volumes: their slices come first, and then the depth.
    """
    *depth, height, width = size
    n, channels, *outer = images.shape[:-2]
    planes = F.interpolate(
        images.flatten(0, -3)[:, None], (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    planes = planes.view(n, channels, *outer, height, width)
    if not depth:
        return planes
    columns = planes.flatten(-2)  # (n, channels, depth, height · width): only the depth changes
    columns = F.interpolate(columns, (*depth, height * width), mode="bilinear", align_corners=False, antialias=True)
    return columns.unflatten(-1, (height, width))


def shrink(images: Float[Tensor, "p c *spatial"], side: int) -> Float[Tensor, "p c *smaller"]:
    """Images or volumes with sides of `side` pixels, which divides theirs: means of each block."""
    # Sums of slices: several times faster than pooling on a CPU.
    for axis in range(2, images.ndim):
        blocks = images.unflatten(axis, (side, -1)).unbind(dim=axis + 1)
        images = reduce(torch.add, blocks) / len(blocks)
    return images
