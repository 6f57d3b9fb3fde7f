"""Images and volumes under a map, and what alignment compares of them. Coordinates are (x, y) or (x, y, z)."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, theta: Tensor, displacement: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images `(p, c, *spatial)` under a displacement and then an affine map, and 1 where these stay inside them."""
    dims = images.ndim - 2
    # As affine_grid does, but a sum of one term for each axis, small ones first: a hundred times faster on a CPU.
    grid = theta[:, :, dims].view(-1, *(1,) * dims, dims)
    for axis, side in enumerate(images.shape[2:]):
        line = pixel_centres(side, images.device).view(-1, *(1,) * (dims - axis))
        grid = grid + theta[:, :, dims - 1 - axis].view(-1, *(1,) * dims, dims) * line
    if displacement is not None:
        grid = grid + (displacement.flatten(1, -2) @ theta[:, :, :dims].transpose(1, 2)).view_as(grid)
    inside = reduce(torch.logical_and, (along.abs() <= 1 for along in grid.unbind(dim=-1)))[:, None].to(images.dtype)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border"), inside


def pixel_centres(side: int, device: torch.device) -> Tensor:
    """Normalised coordinates of the pixels along an axis, from −1 to 1 between the outer edges, `(side,)`."""
    return (torch.arange(side, device=device) + 0.5) * 2 / side - 1


def shrink(images: Tensor, side: int) -> Tensor:
    """Images or volumes `(p, c, *spatial)` with sides of `side` pixels, which divides theirs: means of each block."""
    # Sums of slices: several times faster than pooling on a CPU.
    for axis in range(2, images.ndim):
        blocks = images.unflatten(axis, (side, -1)).unbind(dim=axis + 1)
        images = reduce(torch.add, blocks) / len(blocks)
    return images


def standardise(images: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance where the mask is 1."""
    space = tuple(range(2, images.ndim))
    total = mask.sum(dim=space, keepdim=True).clamp_min(1)
    centred = images - (images * mask).sum(dim=space, keepdim=True) / total
    variance = (centred.square() * mask).sum(dim=space, keepdim=True) / total
    return centred / (variance + 1e-6).sqrt()


def gradient(images: Tensor, mask: Tensor) -> list[Tensor]:
    """Slope along x, y and z, per pixel, of `(p, 1, *spatial)`; 0 where a neighbour is outside of the mask.

    What lies there is another image's, and one pixel of it at the border would pull at the whole.
    """
    dims = images.ndim - 2
    largest = F.max_pool2d if dims == 2 else F.max_pool3d
    known = -largest(-F.pad(mask, (1, 1) * dims, mode="replicate"), 3, stride=1)
    return [torch.gradient(images, dim=-1 - axis)[0] * known for axis in range(dims)]


def sign_of(correlation: Tensor, images: Tensor) -> Tensor:
    """−1 for pairs whose contrast is inverted, else 1, as a factor for `images`: `(p,)` → `(p, 1, …)`."""
    return torch.where(correlation < 0, -1.0, 1.0).view(-1, *(1 for _ in images.shape[1:]))
