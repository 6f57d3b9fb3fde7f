"""Poses in which a query is looked up, and views in which the training images are: a turned copy is a copy.

Flips are poses of the query. Turns, magnifications, other contrasts and blur are views of the training images: they
cost time once, when the detector is fitted, instead of for every generated image. Shifts are left to `framing`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.perturbations import affine
from mi_callback.smoothing import gaussian

Orbit = Literal["none", "flips", "dihedral"]

POSES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "flip_horizontal": lambda x: x.flip(-1),
    "flip_vertical": lambda x: x.flip(-2),
    "rotation_180": lambda x: x.flip(-1, -2),
    "rotation_90": lambda x: torch.rot90(x, 1, (-2, -1)),
    "rotation_270": lambda x: torch.rot90(x, 3, (-2, -1)),
    "transpose": lambda x: x.transpose(-2, -1),
    "anti_transpose": lambda x: torch.rot90(x, 2, (-2, -1)).transpose(-2, -1),
    "flip_depth": lambda x: x.flip(-3),
    "flip_depth_horizontal": lambda x: x.flip(-3, -1),
    "flip_depth_vertical": lambda x: x.flip(-3, -2),
    "flip_all": lambda x: x.flip(-3, -2, -1),
}
"""Name → change of the *query*, on `(…, h, w)` or `(…, d, h, w)`, exact on the pixel grid. Quarter turns swap h and w,
and those named after the depth are for volumes alone."""


@dataclass(frozen=True)
class View:
    """Another look at training images.

    Attributes:
        change: Of images `(n, c, h, w)`, or volumes.
        pose: What takes a query that resembles the changed image on to where it resembles the image itself, but for
            what registration finds.
        recoloured: Whether it shows another contrast, so that grey values cannot align what resembles it.
    """

    change: Callable[[Tensor], Tensor]
    pose: str = "identity"
    recoloured: bool = False


SOFTENED = 1 / 64
"""Blur, as a share of the longer side, under which the images are seen as a soft generator would draw them."""

VIEWS: dict[str, View] = {
    "turned_left": View(lambda x: _resampled(x, rotation=-25.0)),
    "turned_right": View(lambda x: _resampled(x, rotation=25.0)),
    "magnified": View(lambda x: _resampled(x, scale_x=1.4, scale_y=1.4)),
    "quarter_turn": View(POSES["rotation_90"], "rotation_270"),
    "other_contrast": View(lambda x: _as_other_contrast(x), recoloured=True),
    "softened": View(lambda x: gaussian(x, SOFTENED * max(x.shape[-2:]))),
}
"""Name → view of the training images beside the one as they are."""

VOLUME_VIEWS = {"magnified": VIEWS["magnified"]}
"""The same of volumes, magnified in the plane: each view costs a pass over all slices."""

_INVERSE = {"rotation_90": "rotation_270", "rotation_270": "rotation_90"}
"""Poses that are not their own inverse."""

_FLIPS = ["identity", "flip_horizontal", "flip_vertical", "rotation_180"]
_TURNS = ["rotation_90", "rotation_270", "transpose", "anti_transpose"]
_DEPTH = ["flip_depth", "flip_depth_horizontal", "flip_depth_vertical", "flip_all"]

_ORBITS: dict[int, dict[str, list[str]]] = {
    2: {"none": _FLIPS[:1], "flips": _FLIPS, "dihedral": _FLIPS + _TURNS},
    3: {"none": _FLIPS[:1], "flips": _FLIPS + _DEPTH},
}


def orbit(name: Orbit, dims: int = 2) -> list[str]:
    """Names of the poses in an orbit of images (2) or volumes (3), identity first; each orbit begins with the smaller.

    Raises:
        DataError: If there is no such orbit.
    """
    if name not in _ORBITS[dims]:
        raise DataError(f"needed poses out of {list(_ORBITS[dims])} for {dims} dimensions; {name!r} came.")
    return _ORBITS[dims][name]


def looked_up(count: int, dims: int) -> list[str]:
    """The poses of queries that were encoded in `count` of them."""
    return list(_ORBITS[dims].values())[-1][:count]


def views_of(dims: int) -> dict[str, View]:
    """Views of images (2) or volumes (3)."""
    return VIEWS if dims == 2 else VOLUME_VIEWS


def undo(pose: str, images: Tensor) -> Tensor:
    """Images `(…, h, w)` in a pose → as they were before."""
    return POSES[_INVERSE.get(pose, pose)](images)


@lru_cache
def then(first: str, second: str) -> str:
    """The pose that is `first` and after it `second`."""
    grid = torch.arange(8).view(2, 2, 2)
    wanted = POSES[second](POSES[first](grid))
    return next(name for name, pose in POSES.items() if torch.equal(pose(grid), wanted))


def _resampled(images: Tensor, **change: float) -> Tensor:
    """Images under an affine change, the borders as dark as the darkest pixel."""
    darkest = _extreme(images, "amin")
    lit = images - darkest
    planes = affine(lit.flatten(1, -3), **change)  # of volumes, every slice alike
    return planes.view_as(images) + darkest


def _as_other_contrast(images: Tensor) -> Tensor:
    """What is dark becomes bright and what is bright dark, but black stays black: T1 as T2 would show it."""
    darkest = _extreme(images, "amin")
    contrast = (_extreme(images, "amax") - darkest).clamp_min(torch.finfo(images.dtype).tiny)
    grey = (images - darkest) / contrast
    return torch.minimum(4 * grey, 1.25 - grey) * contrast + darkest


def _extreme(images: Tensor, which: Literal["amin", "amax"]) -> Tensor:
    """Darkest or brightest pixel of each image, in the shape that broadcasts."""
    return getattr(images, which)(dim=tuple(range(1, images.ndim)), keepdim=True)
