"""Poses in which a query is looked up: a flipped copy is a copy. What flips do not show `views` do."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import DataError

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


def first_poses(count: int, dims: int) -> list[str]:
    """The poses of queries that were encoded in `count` of them."""
    return list(_ORBITS[dims].values())[-1][:count]


def undo(pose: str, images: Tensor) -> Tensor:
    """Images `(…, h, w)` in a pose → as they were before."""
    return POSES[_INVERSE.get(pose, pose)](images)


@lru_cache
def compose(first: str, second: str) -> str:
    """The pose that is `first` and after it `second`."""
    grid = torch.arange(8).view(2, 2, 2)
    wanted = POSES[second](POSES[first](grid))
    return next(name for name, pose in POSES.items() if torch.equal(pose(grid), wanted))
