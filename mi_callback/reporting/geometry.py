"""What was done to a training image to make the generated one, in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

POSE_UNDONE = {
    "flip_horizontal": "mirrored left to right",
    "flip_vertical": "mirrored top to bottom",
    "rotation_180": "turned by 180°",
    "rotation_90": "turned by 90° clockwise",
    "rotation_270": "turned by 90° counter-clockwise",
    "transpose": "mirrored along the falling diagonal",
    "anti_transpose": "mirrored along the rising diagonal",
    "flip_depth": "mirrored along the depth",
    "flip_depth_horizontal": "mirrored along the depth and left to right",
    "flip_depth_vertical": "mirrored along the depth and top to bottom",
    "flip_all": "mirrored along every axis",
}
"""Pose in which a match was found → what takes the training image to the generated one: the way back."""

LEAST_ZOOM, LEAST_ANGLE, LEAST_SHIFT, LEAST_STRETCH = 0.01, 0.5, 1.0, 0.03
"""Steps smaller than this (a share, degrees, % of the side) are not seen and not told; axes whose zooms differ by less
than the last are told as one."""

_AXES = ("width", "height", "depth")
_WAYS = (("to the right", "to the left"), ("down", "up"), ("to later slices", "to earlier slices"))


@dataclass(frozen=True)
class Geometry:
    """What takes a training image to the place where it lies in the posed generated image: y = turn(zoom(x)) + shift.

    What a smooth warp adds to it is not told.

    Attributes:
        rotation: Degrees about the centre of the image, clockwise, in (−180, 180]; of a volume about some axis, ≥ 0.
        zoom: Magnification along the width, the height and, of a volume, the depth; 1.1 is larger by a tenth.
        shift: Of the centre of the image, to the right, down and, of a volume, to deeper slices, in % of the side.

    Example:
        >>> Geometry(-14.8, (1.11, 1.11), (0.0, -12.4)).words()
        ['zoomed 1.11 times', 'turned by 14.8° counter-clockwise', 'moved by 12 % up']
    """

    rotation: float
    zoom: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def of(cls, theta: Float[Tensor, "dims dims+1"]) -> "Geometry":
        """Geometry of the map from generated to reference coordinates, as `affine_grid` takes it."""
        theta = theta.detach().cpu().double()
        dims = len(theta)
        # The map looks pixels up; what it does to the training image is its inverse.
        forward = torch.linalg.pinv(theta[:, :dims])
        shift = -forward @ theta[:, dims] * 100 / 2  # coordinates run from −1 to 1: the side is 2
        return cls(_angle(forward), tuple(forward.norm(dim=0).tolist()), tuple(shift.tolist()))

    @property
    def mean_zoom(self) -> float:
        """Geometric mean over the axes."""
        return math.prod(self.zoom) ** (1 / len(self.zoom))

    def words(self) -> list[str]:
        """What was done, step by step; steps too small to see are left out."""
        return [*self._zoomed(), *self._turned(), *self._moved()]

    def _zoomed(self) -> list[str]:
        if max(self.zoom) - min(self.zoom) > LEAST_STRETCH * self.mean_zoom:
            along = [f"{zoom:.2f} times in {axis}" for zoom, axis in zip(self.zoom, _AXES, strict=False)]
            return [f"zoomed {listed(along)}"]
        return [f"zoomed {self.mean_zoom:.2f} times"] if abs(self.mean_zoom - 1) >= LEAST_ZOOM else []

    def _turned(self) -> list[str]:
        if abs(self.rotation) < LEAST_ANGLE:
            return []
        clockwise = f" {'' if self.rotation > 0 else 'counter-'}clockwise" if len(self.zoom) == 2 else ""
        return [f"turned by {abs(self.rotation):.1f}°{clockwise}"]

    def _moved(self) -> list[str]:
        moves = [
            f"{abs(share):.0f} % {way[share < 0]}"
            for share, way in zip(self.shift, _WAYS, strict=False)
            if abs(share) >= LEAST_SHIFT
        ]
        return [f"moved by {listed(moves)}"] if moves else []


@dataclass(frozen=True)
class Change:
    """All that takes a training image to what it is in the generated one.

    Attributes:
        geometry: What was done before the pose was undone.
        pose: Pose of the generated image in which the match was found.
        recoloured: Whether the match was compared under another contrast curve.
    """

    geometry: Geometry
    pose: str
    recoloured: bool

    @property
    def steps(self) -> list[str]:
        """In words, in the order in which they are done."""
        recoloured = ["recoloured (grey values through the curve that fits best)"] if self.recoloured else []
        return [*recoloured, *self.geometry.words(), *([POSE_UNDONE[self.pose]] if self.pose in POSE_UNDONE else [])]


def listed(parts: Sequence[str]) -> str:
    """Parts as a sentence lists them.

    Example:
        >>> listed(["one", "two", "three"])
        'one, two and three'
    """
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _angle(linear: Float[Tensor, "dims dims"]) -> float:
    """Degrees of the rotation nearest to a matrix, as in its polar decomposition."""
    if len(linear) == 2:
        return float(torch.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]).rad2deg())
    left, _, right = torch.linalg.svd(linear)
    return float((((left @ right).trace() - 1) / 2).clamp(-1, 1).acos().rad2deg())
