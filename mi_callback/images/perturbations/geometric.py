"""Changes of where things are: turned, magnified, moved, flipped, cropped, bent."""

import math

import torch

from mi_callback.images.perturbations.strength import Strength, draw_smooth, per_image, per_pixel
from mi_callback.images.warping import Border, warp
from mi_callback.types import Images


def affine(
    images: Images,
    rotation: Strength = 0.0,
    scale_x: Strength = 1.0,
    scale_y: Strength = 1.0,
    shift_x: Strength = 0.0,
    shift_y: Strength = 0.0,
    shear: Strength = 0.0,
    border: Border = Border.ZERO,
) -> Images:
    """Sheared, turned and magnified about the centre, then moved.

    Args:
        images: In [0, 1]; they need not be square.
        rotation: In degrees, clockwise as images are shown.
        scale_x, scale_y: Magnification along each axis; above 1 is larger.
        shift_x, shift_y: To the right and down, as a share of the side.
        shear: Of rows along x, as a share of their distance from the centre.
        border: What comes from outside of the image.
    """
    n = len(images)
    angle, sx, sy, dx, dy, k = (per_image(v, n, images) for v in (rotation, scale_x, scale_y, shift_x, shift_y, shear))
    cos, sin = torch.cos(angle * math.pi / 180), torch.sin(angle * math.pi / 180)
    # In normalised coordinates one unit is half a side: a rotation must know how sides compare.
    aspect = images.shape[-2] / images.shape[-1]
    # Maps lead from the output to the input, hence the inverse magnification and the minus before the shift.
    rows = (
        torch.stack([cos / sx, (sin + k) * aspect / sx, -2 * dx], dim=1),
        torch.stack([-sin / aspect / sy, cos / sy, -2 * dy], dim=1),
    )
    return warp(images, torch.stack(rows, dim=1), border=border).images


def flip_horizontal(images: Images) -> Images:
    """Left becomes right."""
    return images.flip(-1)


def flip_vertical(images: Images) -> Images:
    """Above becomes below."""
    return images.flip(-2)


def crop(images: Images, keep: Strength) -> Images:
    """The central `keep` of each side, in (0, 1], enlarged to the old size."""
    return affine(images, scale_x=1 / keep, scale_y=1 / keep)


def elastic(images: Images, pixels: Strength, generator: torch.Generator) -> Images:
    """A smooth random warp: displacements are drawn on a grid of 6 × 6 points and interpolated bicubically.

    Args:
        images: In [0, 1].
        pixels: Standard deviation of the displacements, in pixels: 2 is hardly seen, 6 of 96 distorts.
        generator: Draws them.

    References:
        Simard et al., "Best practices for convolutional neural networks applied to visual document analysis", ICDAR
        2003 (random elastic displacements).
    """
    h, w = images.shape[-2:]
    flow = draw_smooth(len(images), 2, 6, images, generator) * per_pixel(pixels, images)
    flow = flow * flow.new_tensor([2 / w, 2 / h]).view(2, 1, 1)
    identity = torch.eye(2, 3).to(images).expand(len(images), 2, 3)
    return warp(images, identity, flow, border=Border.ZERO).images
