"""The orbit of poses in which a query is looked up: a flipped copy is a copy."""

from collections.abc import Callable
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
}
"""Name → change of the *query*, on `(…, h, w)`, exact on the pixel grid. Quarter turns swap h and w."""

_INVERSE = {"rotation_90": "rotation_270", "rotation_270": "rotation_90"}
"""Poses that are not their own inverse."""

_ORBITS = {"none": 1, "flips": 4, "dihedral": 8}


def orbit(name: Orbit) -> list[str]:
    """Names of the poses in an orbit, identity first.

    Raises:
        DataError: If there is no such orbit.
    """
    if name not in _ORBITS:
        raise DataError(f"needed poses out of {list(_ORBITS)}; {name!r} came.")
    return list(POSES)[: _ORBITS[name]]


def undo(pose: str, images: Tensor) -> Tensor:
    """Images `(…, h, w)` in a pose → as they were before."""
    return POSES[_INVERSE.get(pose, pose)](images)
