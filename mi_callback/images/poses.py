"""Poses in which a query is looked up: a flipped copy is a copy. What flips do not show, the descriptor does."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Shaped
from torch import Tensor

from mi_callback.errors import choice
from mi_callback.types import Kind


class Orbit(Kind):
    """A set of poses: none but the identity; flips (4 of images, 8 of volumes); all 8 of the square, images alone."""

    NONE = "none"
    FLIPS = "flips"
    DIHEDRAL = "dihedral"


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
    2: {Orbit.NONE: _FLIPS[:1], Orbit.FLIPS: _FLIPS, Orbit.DIHEDRAL: _FLIPS + _TURNS},
    3: {Orbit.NONE: _FLIPS[:1], Orbit.FLIPS: _FLIPS + _DEPTH},
}


def orbit(name: Orbit | str, dims: int = 2) -> list[str]:
    """Names of the poses in an orbit, the identity first; each orbit begins with the smaller one.

    Args:
        name: An `Orbit`, or its name.
        dims: 2 for images, 3 for volumes.

    Raises:
        DataError: If there is no such orbit of so many dimensions.

    Example:
        >>> orbit("flips")
        ['identity', 'flip_horizontal', 'flip_vertical', 'rotation_180']
    """
    return _ORBITS[dims][choice(f"poses for {dims} dimensions", name, _ORBITS[dims])]


def first_poses(count: int, dims: int) -> list[str]:
    """The poses of queries that were encoded in `count` of them: the first of the largest orbit."""
    return list(_ORBITS[dims].values())[-1][:count]


def descriptor_poses(orbit: Sequence[str]) -> list[str]:
    """The poses in which images are described where they are encoded in `orbit`: these, and each a quarter turn on.

    Example:
        >>> descriptor_poses(["identity"])
        ['identity', 'rotation_270']
    """
    turned = [compose(pose, "rotation_270") for pose in orbit]
    return list(dict.fromkeys([*orbit, *turned]))


def undo(pose: str, images: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Images `(…, h, w)`, or volumes, in a pose → as they were before."""
    return POSES[_INVERSE.get(pose, pose)](images)


@lru_cache
def compose(first: str, second: str) -> str:
    """The pose that is `first` and after it `second`.

    Example:
        >>> compose("flip_horizontal", "flip_vertical")
        'rotation_180'
    """
    grid = torch.arange(8).view(2, 2, 2)
    wanted = POSES[second](POSES[first](grid))
    return next(name for name, pose in POSES.items() if torch.equal(pose(grid), wanted))
