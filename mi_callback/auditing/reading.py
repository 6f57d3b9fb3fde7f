"""Folders of training, generated and held-out images, read alike."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mi_callback.arguments import integer, positive_integer, switch
from mi_callback.auditing.effects import Rule, refuse_without_effect
from mi_callback.errors import OptionError, choice
from mi_callback.images.files import (
    ORIENTED,
    PICTURES,
    FileAccount,
    Slice,
    SliceFolder,
    VolumeFolder,
    find_manifests,
)
from mi_callback.images.files.kinds import ENDINGS, TIFF, UNITS, FileKind
from mi_callback.images.files.pixels import checked_voi
from mi_callback.types import Kind

SIDE = {2: 128, 3: 96}
"""Sides to which images and volumes are fitted, by the number of dimensions, where none are asked for."""

AXIAL = 2

SLICED = (*ORIENTED, *TIFF, *ENDINGS[FileKind.HDF5], *ENDINGS[FileKind.ZARR])
"""Endings of volumes that are cut along an axis; DICOM files are slices already."""


class Volumes(Kind):
    """What is judged where files are volumes, other than each of their slices."""

    SLICES = "slices"
    WHOLE = "whole"


@dataclass(frozen=True)
class Folders:
    """Folders that were read.

    Attributes:
        train: Training images.
        generated: Synthetic images; None where there are none to judge.
        held_out: Real images of other subjects; None where there are none.
        control: Real images of subjects who were certainly not trained on; None where there are none.
    """

    train: SliceFolder
    generated: SliceFolder | None
    held_out: SliceFolder | None
    control: SliceFolder | None = None

    @property
    def slices(self) -> list[Slice]:
        """Every slice of all of them."""
        return [piece for folder in self._sides.values() for piece in folder.slices]

    @property
    def files(self) -> dict[str, FileAccount]:
        """What became of every file, by side."""
        return {side: folder.files for side, folder in self._sides.items()}

    @property
    def _sides(self) -> dict[str, SliceFolder]:
        sides = {name: getattr(self, name) for name in ("train", "generated", "held_out", "control")}
        return {side: folder for side, folder in sides.items() if folder is not None}


@dataclass(frozen=True)
class FolderReader:
    """How folders are read.

    Args:
        size: Sides to which images are fitted, their proportions kept: height and width, of whole volumes depth,
            height and width; or one number for all. `SIDE` each when None.
        axis: Slicing axis of volumes: 0 sagittal, 1 coronal, 2 axial; axial when None.
        volumes: What is judged where files are volumes: see `audit`.
        colour: Read pictures with their colours.
        columns: Names of the columns of manifests, by what they hold: see `audit`.
        voi: Values of interest: see `audit`.

    Raises:
        OptionError: If a value is none of these, or has no effect beside the others.
    """

    size: int | Sequence[int] | None = None
    axis: int | None = None
    volumes: Volumes | str | None = None
    colour: bool = False
    columns: Mapping[str, str] | None = None
    voi: Sequence[float] | str | None = None

    def __post_init__(self) -> None:
        if self.volumes is not None:
            object.__setattr__(self, "volumes", choice("volumes", self.volumes, Volumes, OptionError))
        if self.axis is not None:
            integer("axis", self.axis, least=0, most=2)
        switch("colour", self.colour)
        checked_voi(self.voi)
        sliced, whole = self.dims == 2, "images or slices, not volumes='whole',"
        rules = [Rule("axis", self.axis is not None, sliced, whole), Rule("colour=True", self.colour, sliced, whole)]
        refuse_without_effect(rules)
        self._check_size()

    @property
    def dims(self) -> int:
        """Spatial dimensions of what is read: 2, or 3 for whole volumes."""
        return 3 if self.volumes == Volumes.WHOLE else 2

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides to which everything is fitted."""
        if self.size is None or isinstance(self.size, int):
            return (SIDE[self.dims] if self.size is None else self.size,) * self.dims
        return tuple(self.size)

    def read(self, root: str | Path, progress: bool = False) -> SliceFolder:
        """The slices of a folder, or its volumes whole."""
        columns = self.columns if find_manifests(Path(root)) else None  # those of other folders
        if self.dims == 3:
            return VolumeFolder(root, self.sides, columns=columns, voi=self.voi, progress=progress)
        axis = AXIAL if self.axis is None else self.axis
        return SliceFolder(root, self.sides, axis, colour=self.colour, columns=columns, voi=self.voi, progress=progress)

    def read_all(
        self,
        train: str | Path,
        generated: str | Path | None = None,
        held_out: str | Path | None = None,
        control: str | Path | None = None,
        progress: bool = False,
    ) -> Folders:
        """All folders, and a warning for each of real images that does not say whose they are."""
        roots = (generated, train, held_out, control)
        self.check_columns([root for root in roots if root is not None])
        read = [None if root is None else self.read(root, progress) for root in roots]
        assert read[1] is not None
        folders = Folders(read[1], read[0], *read[2:])
        self.check_effects(folders.slices)
        kinds = UNITS if isinstance(checked_voi(self.voi), tuple) else (FileKind.DICOM,)
        held = any(folder is not None and folder.holds(kinds) for folder in read)
        needed = f"files with values in units ({', '.join(kinds)})"
        refuse_without_effect([Rule("voi", self.voi is not None, held, needed)])
        real = (("training", folders.train), ("held-out", folders.held_out), ("control", folders.control))
        for name, images in real:
            if images is not None:
                warn_of_unknown_subjects(name, images)
        return folders

    def check_effects(self, slices: Sequence[Slice]) -> None:
        """Refuse an axis where nothing is sliced, and colour where there are no pictures."""
        sliced = any(piece.position is not None and piece.path.name.lower().endswith(SLICED) for piece in slices)
        coloured = any(piece.path.name.lower().endswith(PICTURES) for piece in slices)
        refuse_without_effect(
            [
                Rule("axis", self.axis is not None, sliced, "volumes to slice"),
                Rule("colour=True", self.colour, coloured, "pictures"),
            ]
        )

    def check_columns(self, roots: Sequence[str | Path]) -> None:
        """Refuse names of columns where no folder has a manifest."""
        there = any(find_manifests(Path(root)) for root in roots)
        refuse_without_effect([Rule("columns", self.columns is not None, there, "a manifest")])

    def _check_size(self) -> None:
        sides = self.sides
        if len(sides) != self.dims:
            what = "volumes" if self.dims == 3 else "slices"
            raise OptionError(f"needed a size of {self.dims} numbers for {what}; {sides} came.")
        for side in sides:
            positive_integer("each side of size", side)


def warn_of_unknown_subjects(name: str, images: SliceFolder) -> None:
    """Warn where images do not say whose they are."""
    if images.subjects is None:
        warnings.warn(
            f"no subject ids for the {name} images: each counts as its own person, which is too optimistic where "
            "several show the same one. Add a manifest.csv (columns file, subject), or one folder per subject.",
            stacklevel=4,
        )
