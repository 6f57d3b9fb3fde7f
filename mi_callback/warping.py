"""Images under a map, and what alignment compares of them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, theta: Tensor, displacement: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images `(p, 1, h, w)` under a displacement and then an affine map, and 1 where these stay inside them."""
    y, x = (pixel_centres(side, images.device) for side in images.shape[-2:])
    # As affine_grid does, but a sum of one row and one column: a hundred times faster on a CPU.
    row = theta[:, None, None, :, 0] * x[:, None]
    column = theta[:, None, None, :, 1] * y[:, None, None] + theta[:, None, None, :, 2]
    grid = row + column
    if displacement is not None:
        grid = grid + (displacement.flatten(1, 2) @ theta[:, :, :2].transpose(1, 2)).view_as(grid)
    inside = (grid.abs().amax(dim=-1, keepdim=True) <= 1).permute(0, 3, 1, 2).to(images.dtype)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border"), inside


def pixel_centres(side: int, device: torch.device) -> Tensor:
    """Normalised coordinates of the pixels along an axis, from −1 to 1 between the outer edges, `(side,)`."""
    return (torch.arange(side, device=device) + 0.5) * 2 / side - 1


def standardise(images: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance where the mask is 1."""
    total = mask.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    centred = images - (images * mask).sum(dim=(2, 3), keepdim=True) / total
    variance = (centred.square() * mask).sum(dim=(2, 3), keepdim=True) / total
    return centred / (variance + 1e-6).sqrt()


def gradient(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Slope along x and y, per pixel, of `(p, 1, h, w)`; 0 where a neighbour is outside of the mask.

    What lies there is another image's, and one pixel of it at the border would pull at the whole.
    """
    known = -F.max_pool2d(-F.pad(mask, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x, y = (torch.gradient(images, dim=axis)[0] * known for axis in (-1, -2))
    return x, y


def sign_of(correlation: Tensor) -> Tensor:
    """−1 for pairs whose contrast is inverted, else 1, as a factor for images: `(p,)` → `(p, 1, 1, 1)`."""
    return torch.where(correlation < 0, -1.0, 1.0)[:, None, None, None]
