"""Edges of an image, all about equally strong: what two contrasts of one anatomy have in common.

Under another contrast curve what was dark may be bright, and what was grey dark, but tissues end where they ended.
"""

import torch
from torch import Tensor

from mi_callback.images.filters import gaussian_blur

AROUND = 4
"""Scale of the neighbourhood in which edges are made equally strong, relative to that of the edges."""

FAINT = 0.003
"""Slope, per pixel, of edges that stay faint: of noise in what is empty."""


def edge_strength(images: Tensor, scale: float) -> Tensor:
    """Strength of the edges of images `(n, c, *spatial)` in [0, 1], relative to those around, of the same shape.

    Whatever the gain, offset and sign of the contrast; never negative, and at most about 3.

    Args:
        images: Of one channel, or each channel on its own.
        scale: Standard deviation, in pixels, of the blur before slopes are taken.
    """
    dims = images.ndim - 2
    along = [axis for axis in range(2, images.ndim) if images.shape[axis] > 1]  # one slice has no slope across it
    slopes = torch.gradient(gaussian_blur(images, scale, dims), dim=along)
    slope = torch.stack(slopes).square().sum(dim=0).sqrt()
    # The root brings faint edges closer to strong ones.
    return (slope / (gaussian_blur(slope, AROUND * scale, dims) + FAINT)).sqrt()
