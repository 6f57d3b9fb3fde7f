"""Images and volumes under a map of coordinates, which are (x, y) or (x, y, z)."""

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
    places = theta @ homogeneous_coordinates(*images.shape[2:]).to(theta)
    if displacement is not None:
        places = places + theta[:, :, :dims] @ displacement.flatten(2)
    places = places.unflatten(2, images.shape[2:])
    inside = reduce(torch.maximum, (along.abs() for along in places.unbind(dim=1))) <= 1
    warped = F.grid_sample(images, places.movedim(1, -1), align_corners=False, padding_mode="border")
    return warped, inside[:, None].to(images)


@lru_cache
def homogeneous_coordinates(*shape: int) -> Tensor:
    """What affine maps are sums of, at each pixel: normalised coordinates x, y and z, and 1; `(dims + 1, pixels)`.

    Coordinates go from −1 to 1 between the outer edges.
    """
    axes = [(torch.arange(side) + 0.5) * 2 / side - 1 for side in shape]
    places = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([*reversed(places), torch.ones_like(places[0])]).flatten(1)
