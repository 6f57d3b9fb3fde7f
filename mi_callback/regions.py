"""Overlapping windows of half the sides, three along each axis: a copy may be no more than a part of an image."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mi_callback.smoothing import box_mean

GRID = 3
"""Windows along each side, evenly spread."""

SHARE = 0.5
"""Side of a window as a share of that of the image."""

COUNT = GRID**2
"""Windows of an image; a volume has `GRID**3`."""

STRUCTURED = 0.25
"""Contrast, relative to that of the whole image, from which a window says whose anatomy it shows."""


@lru_cache
def weights(*shape: int) -> Tensor:
    """How much each cell of a map of this shape belongs to each window, `(windows, cells)`; the rows sum to 1."""
    product = torch.ones(1, 1)
    for cells in shape:
        product = torch.einsum("ky,lx->klyx", product, _along(cells)).reshape(
            len(product) * GRID, product.shape[1] * cells
        )
    return product


@lru_cache
def masks(side: int, dims: int = 2) -> Tensor:
    """1 inside each window, 0 outside, and last a mask of the whole image: `(windows + 1, 1, side, side)`.

    Position −1, which stands for no window, is thus the whole.
    """
    inside = weights(*(side,) * dims).view(-1, 1, *(side,) * dims) > 0
    return torch.cat([inside, torch.ones_like(inside[:1])]).float()


def middle(weight: Tensor) -> Tensor:
    """The window nearest to the mean place of windows that weigh `(…, windows)`, not all nothing: `(…,)`."""
    dims = round(math.log(weight.shape[-1], GRID))
    cells = torch.stack(torch.meshgrid(*[torch.arange(GRID)] * dims, indexing="ij"), dim=-1).view(-1, dims)
    place = weight @ cells.to(weight) / weight.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    steps = torch.tensor([GRID ** (dims - 1 - axis) for axis in range(dims)])
    return (place.round().long().cpu() * steps).sum(dim=-1)


def structured(images: Tensor) -> Tensor:
    """Which windows of images `(n, c, *spatial)` show anatomy rather than background, bool `(n, windows)`."""
    grey = images.float().mean(dim=1)
    dims = grey.ndim - 1
    contrast = (box_mean(grey.square(), 9, dims) - box_mean(grey, 9, dims).square()).clamp_min(0).sqrt().flatten(1)
    return contrast @ weights(*images.shape[2:]).to(contrast).T >= STRUCTURED * contrast.mean(dim=1, keepdim=True)


def _along(cells: int) -> Tensor:
    """Share of each window, of those along one side, that lies in each cell, `(GRID, cells)`."""
    start = torch.linspace(0, 1 - SHARE, GRID)[:, None]
    edge = torch.arange(cells + 1) / cells
    overlap = torch.minimum(edge[1:], start + SHARE) - torch.maximum(edge[:-1], start)
    return overlap.clamp_min(0) / SHARE
