"""DICOM files → series, their images in the order in which they lie in the body."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mi_callback.images.files.formats.dicom import Header
from mi_callback.images.files.formats.volumes import LPS_TO_RAS
from mi_callback.images.files.walking import natural_key

FEWEST, WHOLE = 3, 0.2
"""Distances between slices from which the usual one can be told; how far a multiple of it may be from a whole one."""

DECIMALS = 2
"""Of directions and places in millimetres: what differs by less is the same."""


class Frame(NamedTuple):
    """One image: its file, and which of those within it."""

    path: Path
    number: int


class Gap(NamedTuple):
    """Slices that seem to be missing: behind which file, and how many."""

    behind: Path
    missing: int


@dataclass(frozen=True)
class Series:
    """Images of one stack, in order.

    Attributes:
        name: A path that stands for all of them: that of the first.
        frames: The images.
        axes: Directions of columns, rows and slices in RAS coordinates, `(3, 3)`; None where the files do not say.
        gaps: Where slices seem to be missing.
    """

    name: Path
    frames: tuple[Frame, ...]
    axes: np.ndarray | None
    gaps: tuple["Gap", ...] = ()

    @property
    def files(self) -> list[Path]:
        """Every file once."""
        return list(dict.fromkeys(frame.path for frame in self.frames))


class _Placed(NamedTuple):
    frame: Frame
    place: float | None
    number: int
    position: tuple[float, ...] | None


def gather_series(headers: Iterable[Header]) -> list[Series]:
    """Images of one series, one direction and one size, ordered by where they lie; by their numbers where that is not
    said, by their names where nothing is. Several at each place, such as echoes, are stacks of their own.
    """
    groups: dict[tuple, list[_Placed]] = defaultdict(list)
    for header in sorted(headers, key=lambda header: natural_key(header.path)):
        for k in range(header.frames):
            direction = header.orientations[k]
            place = _place(direction, header.positions[k])
            rounded = None if direction is None else tuple(round(value, DECIMALS) for value in direction)
            key = (header.series or header.path.parent, rounded, header.shape, place is None)
            groups[key].append(_Placed(Frame(header.path, k), place, header.number, header.positions[k]))
    return [series for (_, direction, *_), images in groups.items() for series in _stacks(images, direction)]


def _stacks(images: list[_Placed], direction: tuple[float, ...] | None) -> list[Series]:
    # Sorting keeps the order of those that are equal: first the numbers, so that echoes stay in theirs.
    images = sorted(images, key=lambda one: one.number)
    if images[0].place is None:
        return [_series(images, direction, 0)]
    places: dict[float, list[_Placed]] = defaultdict(list)
    for image in images:
        assert image.place is not None
        places[round(image.place, DECIMALS)].append(image)
    most = max(map(len, places.values()))
    ordered = [places[place] for place in sorted(places)]
    return [_series([group[k] for group in ordered if len(group) > k], direction, k) for k in range(most)]


def _series(images: Sequence[_Placed], direction: tuple[float, ...] | None, number: int) -> Series:
    first = images[0].frame.path
    # Stacks of one file have its name in common, and are told apart by a number.
    name = first if not images[0].frame.number else first.with_name(f"{first.name} ({number + 1})")
    return Series(name, tuple(image.frame for image in images), _axes(images, direction), tuple(_gaps(images)))


def _gaps(images: Sequence[_Placed]) -> Iterator[Gap]:
    """Distances between neighbours that are a multiple of the usual one."""
    places = [image.place for image in images if image.place is not None]
    distances = np.diff(places)
    if len(places) < len(images) or len(distances) < FEWEST or (usual := float(np.median(distances))) <= 0:
        return
    for image, distance in zip(images, distances, strict=False):
        times = float(distance) / usual
        if (missing := round(times) - 1) > 0 and abs(times - round(times)) < WHOLE:
            yield Gap(image.frame.path, missing)


def _axes(images: Sequence[_Placed], direction: tuple[float, ...] | None) -> np.ndarray | None:
    if direction is None:
        return None
    along_row, along_column = np.array(direction[:3]), np.array(direction[3:])
    return LPS_TO_RAS @ np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1)


def _place(direction: tuple[float, ...] | None, position: tuple[float, ...] | None) -> float | None:
    """How far along the direction in which slices follow one another an image lies, in millimetres."""
    if direction is None or position is None:
        return None
    return float(np.dot(np.cross(direction[:3], direction[3:]), position))
