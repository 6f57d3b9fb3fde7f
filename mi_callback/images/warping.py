"""Images and volumes under a map, and what alignment compares of them. Coordinates are (x, y) or (x, y, z)."""

from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, theta: Tensor, displacement: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images `(p, c, *spatial)` under a displacement and then an affine map, and 1 where these stay inside them.

    Args:
        theta: Maps `(p, dims, dims + 1)` as `affine_grid` takes them.
        displacement: Along x, y and z, in normalised coordinates, `(p, dims, *spatial)`.
    """
    dims = images.ndim - 2
    # As affine_grid does, but with one plane for each coordinate: a hundred times faster on a CPU.
    places = theta @ terms(*images.shape[2:]).to(theta)
    if displacement is not None:
        places = places + theta[:, :, :dims] @ displacement.flatten(2)
    places = places.unflatten(2, images.shape[2:])
    inside = reduce(torch.maximum, (along.abs() for along in places.unbind(dim=1))) <= 1
    warped = F.grid_sample(images, places.movedim(1, -1), align_corners=False, padding_mode="border")
    return warped, inside[:, None].to(images)


@lru_cache
def terms(*shape: int) -> Tensor:
    """What affine maps are sums of, at each pixel: normalised coordinates x, y and z, and 1; `(dims + 1, pixels)`.

    Coordinates go from −1 to 1 between the outer edges.
    """
    axes = [(torch.arange(side) + 0.5) * 2 / side - 1 for side in shape]
    places = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([*reversed(places), torch.ones_like(places[0])]).flatten(1)


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
    axes = range(-1, 1 - images.ndim, -1)
    known = reduce(_least_of_neighbours, axes, mask)
    return [torch.gradient(images, dim=axis)[0] * known for axis in axes]


def _least_of_neighbours(images: Tensor, axis: int) -> Tensor:
    """The least of each value and those before and after it."""
    least, most = images.clone(), images.shape[axis] - 1
    for here, there in ((0, 1), (1, 0)):
        part = least.narrow(axis, here, most)
        torch.minimum(part, images.narrow(axis, there, most), out=part)
    return least


def sign_of(correlation: Tensor, images: Tensor) -> Tensor:
    """−1 for pairs whose contrast is inverted, else 1, as a factor for `images`: `(p,)` → `(p, 1, …)`."""
    return torch.where(correlation < 0, -1.0, 1.0).view(-1, *(1 for _ in images.shape[1:]))
