"""Images and volumes under a map of coordinates: an affine map, and a displacement before it.

Coordinates are normalised as torch's `grid_sample` takes them with `align_corners=False`: (x, y) or (x, y, z), from −1
to 1 between the outer edges of the first and the last pixel.
"""

from functools import lru_cache, reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Warped(NamedTuple):
    """Images that were sampled elsewhere, and 1 where that lies inside of them, 0 outside."""

    images: Float[Tensor, "p c *spatial"]
    inside: Float[Tensor, "p 1 *spatial"]


def warp(
    images: Float[Tensor, "p c *spatial"],
    theta: Float[Tensor, "p dims dims+1"],
    displacement: Float[Tensor, "p dims *spatial"] | None = None,
) -> Warped:
    """What images show at r ↦ A (r + u(r)) + b, linearly interpolated; outside of them, what their border shows.

    Args:
        images: Images or volumes.
        theta: Affine maps [A b], from where a pixel of the result lies to where the image shows it.
        displacement: u, along x, y and z.
    """
    dims = images.ndim - 2
    # As affine_grid does, but with one plane for each coordinate: a hundred times faster on a CPU.
    places = theta @ homogeneous_coordinates(*images.shape[2:]).to(theta)
    if displacement is not None:
        places = places + theta[:, :, :dims] @ displacement.flatten(2)
    places = places.unflatten(2, images.shape[2:])
    inside = reduce(torch.maximum, (along.abs() for along in places.unbind(dim=1))) <= 1
    warped = F.grid_sample(images, places.movedim(1, -1), align_corners=False, padding_mode="border")
    return Warped(warped, inside[:, None].to(images))


@lru_cache
def homogeneous_coordinates(*shape: int) -> Float[Tensor, "dims+1 pixels"]:
    """What affine maps are sums of, at each pixel: normalised coordinates x, y and z, and 1."""
    axes = [(torch.arange(side) + 0.5) * 2 / side - 1 for side in shape]
    places = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([*reversed(places), torch.ones_like(places[0])]).flatten(1)
