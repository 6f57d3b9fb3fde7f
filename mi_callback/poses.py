"""Poses in which a query is looked up, and views in which the training images are: a turned copy is a copy.

Flips are poses of the query. Turns, magnifications and inverted contrast are views of the training images: they cost
time once, when the detector is fitted, instead of for every generated image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.perturbations import affine

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


@dataclass(frozen=True)
class View:
    """Another look at training images.

    Attributes:
        change: Of images `(n, c, h, w)`.
        pose: What takes a query that resembles the changed image on to where it resembles the image itself, but for
            what registration finds.
    """

    change: Callable[[Tensor], Tensor]
    pose: str = "identity"


VIEWS: dict[str, View] = {
    "turned_left": View(lambda x: _resampled(x, rotation=-25.0)),
    "turned_right": View(lambda x: _resampled(x, rotation=25.0)),
    "magnified": View(lambda x: _resampled(x, scale_x=1.4, scale_y=1.4)),
    "quarter_turn": View(POSES["rotation_90"], "rotation_270"),
    "inverted": View(lambda x: x.amax(dim=(1, 2, 3), keepdim=True) + x.amin(dim=(1, 2, 3), keepdim=True) - x),
}
"""Name → view of the training images beside the one as they are."""

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


@lru_cache
def then(first: str, second: str) -> str:
    """The pose that is `first` and after it `second`."""
    grid = torch.arange(4).view(2, 2)
    wanted = POSES[second](POSES[first](grid))
    return next(name for name, pose in POSES.items() if torch.equal(pose(grid), wanted))


def _resampled(images: Tensor, **change: float) -> Tensor:
    """Images under an affine change, the borders as dark as the darkest pixel."""
    darkest = images.amin(dim=(1, 2, 3), keepdim=True)
    return affine(images - darkest, **change) + darkest
