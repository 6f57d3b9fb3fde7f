"""Edges of an image, all about equally strong: what two contrasts of one anatomy have in common.

Under another contrast curve what was dark may be bright, and what was grey dark, but tissues end where they ended.
"""

import torch

from mi_callback.images.config import EDGES
from mi_callback.images.filters import gaussian_blur
from mi_callback.types import Images


def edge_strength(images: Images, scale: float) -> Images:
    """How strong the edges of images are, relative to those around.

    √(|∇ G x| / (G′ |∇ G x| + faint)), with G a Gaussian blur of `scale` and G′ one of `EDGES.around` times that. The
    root brings faint edges closer to strong ones.

    Args:
        images: Images or volumes in [0, 1], each channel on its own.
        scale: Standard deviation, in pixels, of the blur before slopes are taken.

    Returns:
        Images of the same shape, never negative and at most about 3, whatever gain, offset and sign of the contrast.
    """
    dims = images.ndim - 2
    along = [axis for axis in range(2, images.ndim) if images.shape[axis] > 1]  # one slice has no slope across it
    slopes = torch.gradient(gaussian_blur(images, scale, dims), dim=along)
    slope = torch.stack(slopes).square().sum(dim=0).sqrt()
    return (slope / (gaussian_blur(slope, EDGES.around * scale, dims) + EDGES.faint)).sqrt()
