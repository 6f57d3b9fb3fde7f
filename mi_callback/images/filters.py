"""Separable filters along each axis, as band matrices or sums of slices: several times faster than convolution here.

Images and volumes alike: the last `dims` axes are those of space.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FAINTEST = 1e-12
"""Weights of a blur below this are zero. They change no sum, and processors take twenty times as long for products that
are smaller than 1e-38, as of two such weights."""


def box_mean(images: Float[Tensor, "*any"], window: int, dims: int = 2) -> Float[Tensor, "*any"]:
    """Mean of the pixels around each one.

    Args:
        images: `(…, h, w)` or `(…, d, h, w)`.
        window: Side of what is around a pixel, an odd number; fewer pixels count at the border.
        dims: How many of the last axes are those of space.
    """
    for axis in range(-dims, 0):
        side = images.shape[axis]
        total = images.clone()
        for away in range(1, min(window // 2 + 1, side)):
            total.narrow(axis, 0, side - away).add_(images.narrow(axis, away, side - away))
            total.narrow(axis, away, side - away).add_(images.narrow(axis, 0, side - away))
        images = total.div_(_pixels_in_window(side, window).to(images).view(-1, *(1,) * (-1 - axis)))
    return images


def gaussian_blur(
    images: Float[Tensor, "*any"], sigma: float | Float[Tensor, " n"], dims: int = 2
) -> Float[Tensor, "*any"]:
    """The one Gaussian blur; its kernel is cut off where it falls below `FAINTEST`, and renormalised at the border.

    Nothing is assumed of what lies outside of an image: near the border fewer pixels count, each with its weight.

    Args:
        images: `(…, h, w)` or `(…, d, h, w)`.
        sigma: Standard deviation of the kernel, in pixels, above 0; of images `(n, c, h, w)` also one for each.
        dims: How many of the last axes are those of space.
    """
    sides = images.shape[-dims:]
    if isinstance(sigma, Tensor):
        sigma = sigma.to(images).view(-1, 1, 1, 1)
        return apply_along_axes(images, [_gaussian_weights(_distance(side).to(images), sigma) for side in sides])
    return apply_along_axes(images, [_gaussian_matrix(side, sigma) for side in sides])


def local_contrast(images: Float[Tensor, "p 1 *spatial"], sigma: float, floor: float) -> Float[Tensor, "p 1 *spatial"]:
    """Deviation from the local mean, in local standard deviations: free of bias fields.

    Args:
        images: Images or volumes in [0, 1].
        sigma: Scale, in pixels, of what is local.
        floor: Added to the standard deviation: where it is smaller there is no structure, and noise is not enlarged.
    """
    dims = images.ndim - 2
    deviation = images - gaussian_blur(images, sigma, dims)
    return deviation / (gaussian_blur(deviation.square(), sigma, dims).clamp_min(0).sqrt() + floor)


def standardise(images: Float[Tensor, "p c *spatial"], mask: Float[Tensor, "p 1 *spatial"]) -> Tensor:
    """Zero mean and unit variance where the mask is 1, of each image and channel; a variance of 1e-6 is added."""
    space = tuple(range(2, images.ndim))
    total = mask.sum(dim=space, keepdim=True).clamp_min(1)
    centred = images - (images * mask).sum(dim=space, keepdim=True) / total
    variance = (centred.square() * mask).sum(dim=space, keepdim=True) / total
    return centred / (variance + 1e-6).sqrt()


def gradient(images: Float[Tensor, "p 1 *spatial"], mask: Float[Tensor, "p 1 *spatial"]) -> list[Tensor]:
    """Slope along x, y and z, per pixel; 0 where a neighbour is outside of the mask.

    What lies there is another image's, and one pixel of it at the border would pull at the whole.
    """
    axes = range(-1, 1 - images.ndim, -1)
    known = reduce(_least_of_neighbours, axes, mask)
    return [torch.gradient(images, dim=axis)[0] * known for axis in axes]


def apply_along_axes(images: Float[Tensor, "*old"], filters: Sequence[Float[Tensor, "*any new old"]]) -> Tensor:
    """A matrix along each of the last axes, as many as there are matrices.

    Args:
        images: `(…, h, w)` or `(…, d, h, w)`.
        filters: `(new, old)`; of images `(n, c, h, w)` also `(n, 1, new, old)`, another matrix for each.
    """
    *outer, vertical, horizontal = (matrix.to(images) for matrix in filters)
    images = vertical @ images @ horizontal.mT
    for matrix in outer:  # of volumes the depth, the third axis from the end
        images = (matrix @ images.flatten(-2)).unflatten(-1, images.shape[-2:])
    return images


@lru_cache
def _pixels_in_window(side: int, window: int) -> Float[Tensor, " side"]:
    """Pixels of a line that the window around each one holds."""
    return (_distance(side) <= window // 2).float().sum(dim=1)


@lru_cache
def _gaussian_matrix(side: int, sigma: float) -> Float[Tensor, "side side"]:
    return _gaussian_weights(_distance(side), sigma)


def _gaussian_weights(distance: Tensor, sigma: float | Tensor) -> Tensor:
    return F.threshold(torch.softmax(-0.5 * (distance / sigma) ** 2, dim=-1), FAINTEST, 0.0)


def _distance(side: int) -> Float[Tensor, "side side"]:
    place = torch.arange(side, dtype=torch.float32)
    return (place[:, None] - place).abs()


def _least_of_neighbours(images: Tensor, axis: int) -> Tensor:
    """The least of each value and those before and after it."""
    least, most = images.clone(), images.shape[axis] - 1
    for here, there in ((0, 1), (1, 0)):
        part = least.narrow(axis, here, most)
        torch.minimum(part, images.narrow(axis, there, most), out=part)
    return least
