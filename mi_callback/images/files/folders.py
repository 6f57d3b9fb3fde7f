"""Folders on disk → slices and volumes that know their subject."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mi_callback.arguments import integer
from mi_callback.errors import DataError
from mi_callback.images.files.kinds import ENDINGS, kind_of
from mi_callback.images.files.manifests import read_manifests
from mi_callback.images.files.pixels import depth_of, patient_of, read_image
from mi_callback.images.files.walking import find_files
from mi_callback.images.resizing import letterbox
from mi_callback.images.subjects.ids import normal_id
from mi_callback.images.subjects.paths import Attribution, Rule, attribute_files, count_rules


class Slice(NamedTuple):
    """Where one slice lies: a file, and for volumes the position along the slicing axis."""

    path: Path
    subject: str | None
    position: int | None


class SliceFolder(Dataset[dict[str, Any]]):
    """All images below a folder as single-channel slices with their subject.

    PNG, JPEG, TIFF, BMP, `.npy`, NIfTI (every slice along `axis`) and DICOM are read. An item is
    `{"image": float32 (1, h, w), "subject": str, "filename_or_obj": str}`; the key `subject` is absent when the subject
    of any slice is unknown. The subject comes from, in this order: the function `subject_of`, the column `subject`
    of a `manifest.csv` beside the images (column `file`: path below the manifest), a BIDS `sub-…` in the path,
    the DICOM PatientID, the first folders below `root` that are not named like classes, splits or kinds of files
    (`NORMAL`, `train`, `images`, `fold1`), and for a NIfTI volume its own name; see `subject_rules`.

    Args:
        root: Folder to read, recursively.
        size: `(h, w)` to which slices are fitted with their proportions kept, or None to leave them as they are.
            Needed when sizes differ and slices are to be batched.
        axis: Slicing axis of volumes, after reorientation to RAS: 0 sagittal, 1 coronal, 2 axial.
        subject_of: Path → subject id; overrides every other rule.
        colour: Read all images as `(3, h, w)`, red, green and blue, grey ones repeated; by default colour is refused.

    Raises:
        DataError: If the folder does not exist, holds no image, or a file or manifest in it cannot be read.
        OptionError: If there is no such axis.
    """

    KINDS: ClassVar[tuple[str, ...]] = tuple(ENDINGS)

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, ...] | None = None,
        axis: int = 2,
        subject_of: Callable[[Path], str] | None = None,
        colour: bool = False,
    ) -> None:
        self.root, self.size, self.axis, self.colour = Path(root), size, integer("axis", axis, 0, 2), colour
        if not self.root.is_dir():
            raise DataError(f"needed a folder of images; {self.root} is not a folder.")
        files = find_files(self.root, self.KINDS)
        if not files:
            read = [ending for kind in self.KINDS for ending in ENDINGS[kind]]
            raise DataError(f"needed at least one image in {self.root}; found none. Read are {', '.join(read)}.")
        self.slices: list[Slice] = []
        self._rules: dict[Path, Rule] = {}
        for path, (subject, rule) in zip(files, self._attribute(files, subject_of), strict=True):
            self._rules[path] = rule
            self.slices += [Slice(path, subject, position) for position in self._positions(path)]

    def _attribute(self, files: Sequence[Path], subject_of: Callable[[Path], str] | None) -> list[Attribution]:
        """The subject of each file, and what told it."""
        if subject_of is not None:
            return [Attribution(normal_id(subject_of(path)), Rule.FUNCTION) for path in files]
        manifest = {path: normal_id(subject) for path, subject in read_manifests(self.root).items()}
        listed = {path: Attribution(subject, Rule.MANIFEST) for path, subject in manifest.items() if subject}
        others = [path for path in files if path not in listed]
        if listed and others:
            warnings.warn(
                f"{len(others)} of {len(files)} files below {self.root} are in no manifest, such as {others[0].name}: "
                "whose they are is told by their paths.",
                stacklevel=3,
            )
        told = dict(zip(others, attribute_files(others, self.root, patient_of), strict=True))
        return [listed.get(path) or told[path] for path in files]

    def _positions(self, path: Path) -> Sequence[int | None]:
        return range(depth_of(path, self.axis)) if kind_of(path) == "volume" else [None]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        path, subject, position = self.slices[i]
        image = torch.from_numpy(np.array(self._pixels(path, position), dtype=np.float32))
        image = image.movedim(-1, 0) if self.colour and image.ndim == 3 else image[None]
        if self.colour:
            image = image.expand(3, -1, -1)
        if self.size is not None:
            image = letterbox(image[None], self.size)[0]
        item: dict[str, Any] = {"image": image, "filename_or_obj": str(path)}
        if self._all_known:
            item["subject"] = subject
        return item

    def _pixels(self, path: Path, position: int | None) -> np.ndarray:
        pixels = read_image(path, self.colour)
        return pixels if position is None else np.rot90(np.take(pixels, position, axis=self.axis))

    @cached_property
    def _all_known(self) -> bool:
        return all(s.subject is not None for s in self.slices)

    @property
    def subjects(self) -> list[str] | None:
        """One subject per slice, or None when any slice has none: then no item has the key `subject`."""
        return [str(s.subject) for s in self.slices] if self._all_known else None

    @property
    def subject_rules(self) -> str:
        """What told the subjects, with counts, for people to read."""
        return count_rules([Attribution(s.subject, self._rules[s.path]) for s in self.slices])

    def where(self, keep: Sequence[bool] | Tensor) -> "SliceFolder":
        """The same folder restricted to the slices for which `keep` is true."""
        if len(keep) != len(self):
            raise DataError(f"needed one truth value per slice ({len(self)}); {len(keep)} came.")
        chosen = object.__new__(type(self))
        chosen.__dict__ |= self.__dict__ | {"slices": [s for s, k in zip(self.slices, keep, strict=True) if k]}
        chosen.__dict__.pop("_all_known", None)
        return chosen


class VolumeFolder(SliceFolder):
    """All NIfTI volumes below a folder, each whole, with their subject: as `SliceFolder`, but an item's `image` is
    float32 `(1, d, h, w)`, from foot to head, from front to back, from left to right where the file says which is what.

    Args:
        root: Folder to read, recursively.
        size: `(d, h, w)` to which volumes are fitted with their proportions kept, or None to leave them as they are.
            Needed when sizes differ and volumes are to be batched.
        subject_of: Path → subject id; overrides every other rule.

    Raises:
        DataError: If the folder does not exist or holds no volume.
    """

    KINDS = ("volume",)

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, ...] | None = None,
        subject_of: Callable[[Path], str] | None = None,
    ) -> None:
        super().__init__(root, size, subject_of=subject_of)

    def _positions(self, path: Path) -> Sequence[int | None]:
        depth_of(path, self.axis)  # refuses what is no volume
        return [None]

    def _pixels(self, path: Path, position: int | None) -> np.ndarray:
        return read_image(path).transpose(2, 1, 0)[:, ::-1]  # RAS (x, y, z) → depth, height, width


def split_by_subject(subjects: Sequence[str], share: float, seed: int = 0) -> Tensor:
    """A reproducible split that never cuts a subject in two.

    A subject's side depends on its id and the seed alone, so it stays where it is when others join.

    Args:
        subjects: Subject of each image, length n.
        share: Share of subjects, in [0, 1], for which the answer is true (exact only in expectation).
        seed: Another seed, another split.

    Returns:
        Bool tensor of shape `(n,)`.
    """
    digests = (hashlib.blake2b(f"{seed}:{subject}".encode(), digest_size=8).digest() for subject in subjects)
    return torch.tensor([int.from_bytes(digest, "big") / 2**64 < share for digest in digests], dtype=torch.bool)
