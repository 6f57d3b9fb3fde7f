"""Overlapping windows of half the sides, three along each axis: a copy may be no more than a part of an image."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mi_callback.images.filters import box_mean

WINDOWS_PER_SIDE = 3
"""Windows along each side, evenly spread."""

WINDOW_SHARE = 0.5
"""Side of a window as a share of that of the image."""

WINDOWS = WINDOWS_PER_SIDE**2
"""Windows of an image; a volume has `WINDOWS_PER_SIDE**3`."""

STRUCTURED = 0.25
"""Contrast, relative to that of the whole image, from which a window says whose anatomy it shows."""


@lru_cache
def window_weights(*shape: int) -> Tensor:
    """How much each cell of a map of this shape belongs to each window, `(windows, cells)`; the rows sum to 1."""
    product = torch.ones(1, 1)
    for cells in shape:
        product = torch.einsum("ky,lx->klyx", product, _along(cells)).reshape(
            len(product) * WINDOWS_PER_SIDE, product.shape[1] * cells
        )
    return product


@lru_cache
def window_masks(side: int, dims: int = 2) -> Tensor:
    """1 inside each window, 0 outside, and last a mask of the whole image: `(windows + 1, 1, side, side)`.

    Position −1, which stands for no window, is thus the whole.
    """
    inside = window_weights(*(side,) * dims).view(-1, 1, *(side,) * dims) > 0
    return torch.cat([inside, torch.ones_like(inside[:1])]).float()


def middle_window(weight: Tensor) -> Tensor:
    """The window nearest to the mean place of windows that weigh `(…, windows)`, not all nothing: `(…,)`."""
    dims = round(math.log(weight.shape[-1], WINDOWS_PER_SIDE))
    cells = torch.stack(torch.meshgrid(*[torch.arange(WINDOWS_PER_SIDE)] * dims, indexing="ij"), dim=-1).view(-1, dims)
    place = weight @ cells.to(weight) / weight.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    steps = torch.tensor([WINDOWS_PER_SIDE ** (dims - 1 - axis) for axis in range(dims)])
    return (place.round().long().cpu() * steps).sum(dim=-1)


def structured_windows(images: Tensor) -> Tensor:
    """Which windows of images `(n, c, *spatial)` show anatomy rather than background, bool `(n, windows)`."""
    grey = images.float().mean(dim=1)
    dims = grey.ndim - 1
    contrast = (box_mean(grey.square(), 9, dims) - box_mean(grey, 9, dims).square()).clamp_min(0).sqrt().flatten(1)
    return contrast @ window_weights(*images.shape[2:]).to(contrast).T >= STRUCTURED * contrast.mean(
        dim=1, keepdim=True
    )


def _along(cells: int) -> Tensor:
    """Share of each window, of those along one side, that lies in each cell, `(WINDOWS_PER_SIDE, cells)`."""
    start = torch.linspace(0, 1 - WINDOW_SHARE, WINDOWS_PER_SIDE)[:, None]
    edge = torch.arange(cells + 1) / cells
    overlap = torch.minimum(edge[1:], start + WINDOW_SHARE) - torch.maximum(edge[:-1], start)
    return overlap.clamp_min(0) / WINDOW_SHARE
