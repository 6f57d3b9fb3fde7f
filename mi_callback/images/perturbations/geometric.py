"""Changes of where things are: turned, magnified, moved, flipped, cropped, bent."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.perturbations.strength import Strength, per_image, per_pixel, randn_like


def affine(
    images: Tensor,
    rotation: Strength = 0.0,
    scale_x: Strength = 1.0,
    scale_y: Strength = 1.0,
    shift_x: Strength = 0.0,
    shift_y: Strength = 0.0,
    shear: Strength = 0.0,
) -> Tensor:
    """Turn by `rotation` degrees, magnify by `scale`, move by `shift` (share of the side); empty borders are 0."""
    n = len(images)
    angle, sx, sy, dx, dy, k = (per_image(v, n, images) for v in (rotation, scale_x, scale_y, shift_x, shift_y, shear))
    cos, sin = torch.cos(angle * math.pi / 180), torch.sin(angle * math.pi / 180)
    # In the normalised coordinates of affine_grid one unit is half a side: a rotation must know how sides compare.
    aspect = images.shape[-2] / images.shape[-1]
    # affine_grid maps output to input, hence the inverse magnification and the minus before the shift.
    rows = (
        torch.stack([cos / sx, (sin + k) * aspect / sx, -2 * dx], dim=1),
        torch.stack([-sin / aspect / sy, cos / sy, -2 * dy], dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def flip_horizontal(images: Tensor) -> Tensor:
    return images.flip(-1)


def flip_vertical(images: Tensor) -> Tensor:
    return images.flip(-2)


def crop(images: Tensor, keep: Strength) -> Tensor:
    """Keep the central `keep` of each side, enlarged to the old size."""
    return affine(images, scale_x=1 / keep, scale_y=1 / keep)


def elastic(images: Tensor, pixels: Strength, generator: torch.Generator) -> Tensor:
    """Smooth random warp from displacements on a 6×6 grid; `pixels` is their standard deviation."""
    h, w = images.shape[-2:]
    coarse = randn_like((len(images), 2, 6, 6), images, generator) * per_pixel(pixels, images)
    flow = F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    flow = flow * flow.new_tensor([2 / w, 2 / h])
    identity = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
    grid = F.affine_grid(identity, list(images.shape), align_corners=False) + flow
    return F.grid_sample(images, grid, align_corners=False)
