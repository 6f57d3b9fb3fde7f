"""Separable filters as band matrices along each axis: on images of this size several times faster than convolution."""

from functools import lru_cache

import torch
from torch import Tensor


def box_mean(images: Tensor, window: int) -> Tensor:
    """Mean over `window` × `window` pixels, fewer at the border, of `(…, h, w)`."""
    vertical, horizontal = (_box(side, window).to(images) for side in images.shape[-2:])
    return vertical @ images @ horizontal.T


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, `sigma` in pixels, of `(…, h, w)`; the kernel is renormalised at the border."""
    vertical, horizontal = (_gaussian(side, sigma).to(images) for side in images.shape[-2:])
    return vertical @ images @ horizontal.T


def local_contrast(images: Tensor, sigma: float, floor: float) -> Tensor:
    """Deviation from the local mean in local standard deviations, for images in [0, 1]: free of bias fields.

    Where the deviation is below `floor`, there is no structure, and it is not enlarged.
    """
    deviation = images - gaussian(images, sigma)
    return deviation / (gaussian(deviation.square(), sigma).clamp_min(0).sqrt() + floor)


@lru_cache
def _box(side: int, window: int) -> Tensor:
    near = (_distance(side) <= window // 2).float()
    return near / near.sum(dim=1, keepdim=True)


@lru_cache
def _gaussian(side: int, sigma: float) -> Tensor:
    return torch.softmax(-0.5 * (_distance(side) / sigma) ** 2, dim=1)


def _distance(side: int) -> Tensor:
    place = torch.arange(side, dtype=torch.float32)
    return (place[:, None] - place).abs()
