"""Overlapping windows of half the sides, three along each axis: a copy may be no more than a part of an image."""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.images.config import WINDOW
from mi_callback.images.filters import box_mean
from mi_callback.types import Images

WINDOWS_PER_SIDE = WINDOW.per_side
"""Windows along each side, evenly spread."""

WINDOWS = WINDOWS_PER_SIDE**2
"""Windows of an image; a volume has `WINDOWS_PER_SIDE**3`."""


@lru_cache
def window_weights(*shape: int) -> Float[Tensor, "windows cells"]:
    """How much each cell of a map of this shape belongs to each window; the rows sum to 1."""
    product = torch.ones(1, 1)
    for cells in shape:
        product = torch.einsum("ky,lx->klyx", product, _weights_along(cells)).reshape(
            len(product) * WINDOWS_PER_SIDE, product.shape[1] * cells
        )
    return product


@lru_cache
def window_masks(side: int, dims: int = 2) -> Float[Tensor, "windows+1 1 *side"]:
    """1 inside each window of a square or cube, 0 outside, and last a mask of the whole.

    Position −1, which stands for no window, is thus the whole.
    """
    inside = window_weights(*(side,) * dims).view(-1, 1, *(side,) * dims) > 0
    return torch.cat([inside, torch.ones_like(inside[:1])]).float()


def middle_window(weight: Float[Tensor, "*any windows"]) -> Int[Tensor, "*any"]:
    """The window nearest to the mean place of windows with these weights, which are not all 0."""
    dims = round(math.log(weight.shape[-1], WINDOWS_PER_SIDE))
    cells = torch.stack(torch.meshgrid(*[torch.arange(WINDOWS_PER_SIDE)] * dims, indexing="ij"), dim=-1).view(-1, dims)
    place = weight @ cells.to(weight) / weight.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    steps = torch.tensor([WINDOWS_PER_SIDE ** (dims - 1 - axis) for axis in range(dims)])
    # Half way between two windows the outer one counts, whatever rounding made of the half.
    middle = (WINDOWS_PER_SIDE - 1) / 2
    place = middle + ((place - middle) * (1 + 1e-5)).round()
    return (place.long().cpu() * steps).sum(dim=-1)


def structured_windows(images: Images) -> Bool[Tensor, "n windows"]:
    """Which windows show anatomy rather than background: those with enough of the contrast of the whole image.

    Contrast at a place is the standard deviation of grey values around it; gain and offset do not change the answer.
    """
    grey = images.float().mean(dim=1)
    side, dims = WINDOW.contrast, grey.ndim - 1
    variance = box_mean(grey.square(), side, dims) - box_mean(grey, side, dims).square()
    contrast = variance.clamp_min(0).sqrt().flatten(1)
    of_windows = contrast @ window_weights(*images.shape[2:]).to(contrast).T
    # A little less is enough: of an image of few grey values a window may have exactly that share.
    return of_windows >= (WINDOW.structured - 1e-6) * contrast.mean(dim=1, keepdim=True)


def _weights_along(cells: int) -> Float[Tensor, "windows cells"]:
    """Share of each window, of those along one side, that lies in each cell."""
    start = torch.linspace(0, 1 - WINDOW.share, WINDOWS_PER_SIDE)[:, None]
    edge = torch.arange(cells + 1) / cells
    overlap = torch.minimum(edge[1:], start + WINDOW.share) - torch.maximum(edge[:-1], start)
    return overlap.clamp_min(0) / WINDOW.share
