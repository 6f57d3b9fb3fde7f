"""Folders on disk → slices and volumes that know their subject."""

import hashlib
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mi_callback.arguments import integer
from mi_callback.errors import DataError, OptionError
from mi_callback.images.files.accounts import Failure, FileAccount, FileError, LeftOut, in_words
from mi_callback.images.files.archives import archive_of, unpacked_name
from mi_callback.images.files.formats.limits import within
from mi_callback.images.files.kinds import ENDINGS, UNITS, FileKind
from mi_callback.images.files.manifests import read_manifests
from mi_callback.images.files.pixels import VOLUMES, checked_voi, read_frame, read_series, read_slice, read_volume
from mi_callback.images.files.scans import Scan, Slice, check_scan, gather_scans
from mi_callback.images.files.walking import Listing, find_files
from mi_callback.images.progress import counted
from mi_callback.images.resizing import letterbox
from mi_callback.images.subjects.ids import normal_id
from mi_callback.images.subjects.paths import Attribution, Rule, attribute_files, count_rules


class SliceFolder(Dataset[dict[str, Any]]):
    """All images below a folder as single-channel slices with their subject.

    Pictures, arrays, volumes (every slice along `axis`) and DICOM files (every frame, series in the order in which they
    lie) are read, also within zip archives; docs/auditing.md lists all formats. An item is a dictionary of `image`,
    float32 `(1, h, w)`, `subject` and `filename_or_obj`; `subject` is absent when that of any slice is unknown.
    The subject comes from, in this order: the function `subject_of`, the column `subject` of a `manifest.csv` beside
    the images (column `file`: path below the manifest), a BIDS `sub-…` in the path, the PatientID in the file, the
    first folders below `root` that are not named like classes, splits or kinds of files (`NORMAL`, `train`, `images`,
    `fold1`), and for a volume its own name; see `subject_rules`.

    Every file is read once when the folder is opened. What cannot be judged (damaged, NaN, one value in every pixel) is
    listed in `files` and said in a warning; slices of volumes without content are counted there.

    Args:
        root: Folder to read, recursively.
        size: `(h, w)` to which slices are fitted with their proportions kept, or None to leave them as they are.
            Needed when sizes differ and slices are to be batched.
        axis: Slicing axis of volumes, after reorientation to RAS: 0 sagittal, 1 coronal, 2 axial. DICOM files are
            already sliced.
        subject_of: Path → subject id; overrides every other rule.
        colour: Read all images as `(3, h, w)`, red, green and blue, grey ones repeated; by default colour is refused.
        columns: Names of the columns of manifests where they are others than `manifests.NAMES`.
        voi: Values of interest of files that hold values in units (`UNITS`): center and width of a window outside of
            which they are cut off; `file` for the LUT or window that each DICOM file names; None for all values.
        progress: Show a progress bar while files are read.

    Attributes:
        slices: Where each slice lies, in order.
        files: What became of every file.
        details: Session, site, sex and age of files, as manifests say them.

    Raises:
        DataError: If the folder does not exist, holds no image that can be judged, or a manifest in it cannot be read.
        OptionError: If there is no such axis, or columns are named and there is no manifest.
    """

    KINDS: ClassVar[tuple[FileKind, ...]] = tuple(kind for kind in FileKind if kind is not FileKind.NOT_READ)

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, ...] | None = None,
        axis: int = 2,
        subject_of: Callable[[Path], str] | None = None,
        colour: bool = False,
        columns: Mapping[str, str] | None = None,
        voi: Sequence[float] | str | None = None,
        progress: bool = False,
    ) -> None:
        self.root, self.size, self.axis, self.colour = Path(root), size, integer("axis", axis, 0, 2), colour
        self.voi = checked_voi(voi)
        if not self.root.is_dir():
            raise DataError(f"needed a folder of images; {self.root} is not a folder.")
        listing = find_files(self.root, self.KINDS)
        gathered = gather_scans(listing)
        self._kinds = listing.found
        self._series = {scan.path: scan.series for scan in gathered.scans if scan.series is not None}
        files = [file for scan in gathered.scans for file in scan.files]
        self._told = self._attribute(files, gathered.patients, self._read_manifests(listing, columns), subject_of)
        self.slices: list[Slice] = []
        label = f"files of {self.root.name}" if progress else None
        self.files = self._check(counted(gathered.scans, label, "scan"), listing)
        self._say_files()

    def _read_manifests(self, listing: Listing, columns: Mapping[str, str] | None) -> dict[Path, str]:
        """File → subject, by manifests; rows without a file are listed."""
        manifest = read_manifests(self.root, [path for path in listing.found if archive_of(path) is not None], columns)
        if columns and not manifest.read:
            raise OptionError(f"needed a manifest in {self.root} for columns to have any effect; there is none.")
        self.details = manifest.details
        if manifest.missing:
            listing.left_out[LeftOut.ROW] += manifest.missing
        return manifest.subject_of

    def _attribute(
        self,
        files: Sequence[Path],
        patients: Mapping[Path, str],
        manifest: Mapping[Path, str],
        subject_of: Callable[[Path], str] | None,
    ) -> dict[Path, Attribution]:
        """The subject of each file, and what told it."""
        if subject_of is not None:
            return {path: Attribution(normal_id(subject_of(path)), Rule.FUNCTION) for path in files}
        ids = {path: normal_id(subject) for path, subject in manifest.items()}
        listed = {path: Attribution(subject, Rule.MANIFEST) for path, subject in ids.items() if subject}
        others = [path for path in files if path not in listed]
        if listed and others:
            warnings.warn(
                f"{len(others)} of {len(files)} files below {self.root} are in no manifest, such as {others[0].name}: "
                "whose they are is told by their paths.",
                stacklevel=3,
            )
        names = {path: unpacked_name(path, self.root) for path in others}
        known = {names[path]: patient for path, patient in patients.items() if path in names}
        told = attribute_files([names[path] for path in others], self.root, known.get)
        return listed | dict(zip(others, told, strict=True))

    def _check(self, scans: Iterable[Scan], listing: Listing) -> FileAccount:
        """Read every scan, keep the slices that have content, and account for all files."""
        failed = {failure.path: failure for failure in listing.failed}
        read: set[Path] = set()
        empty = 0
        for scan in scans:
            try:
                checked = check_scan(self._pieces(scan), self._read, self._fit)
            except FileError as error:  # of the whole volume
                failed |= {path: Failure(path, error.reason, str(error)) for path in scan.files}
                continue
            self.slices += checked.kept
            failed |= checked.failed
            read |= set(scan.files) - checked.failed.keys()
            empty += checked.empty
        left_out = {reason: tuple(paths) for reason, paths in listing.left_out.items() if paths}
        in_order = tuple(path for path in self._kinds if path in read)
        by_manifest = any(rule is Rule.MANIFEST for _, rule in self._told.values())
        unlisted = [path for path in in_order if by_manifest and self._told[path].rule is not Rule.MANIFEST]
        gaps = {gap.behind: gap.missing for series in self._series.values() for gap in series.gaps}
        return FileAccount(in_order, left_out, tuple(failed.values()), empty, tuple(unlisted), gaps)

    def _say_files(self) -> None:
        """Refuse a folder of which nothing can be judged, and warn of what is not judged."""
        files, failed = self.files, self.files.failed
        if not self.slices and failed:
            raise DataError(
                f"needed at least one image in {self.root} that can be judged; {len(failed)} came and failed, such as: "
                f"{failed[0].message}"
            )
        if not self.slices:
            read = [ending for kind in self.KINDS for ending in ENDINGS.get(kind, ())]
            raise DataError(f"needed at least one image in {self.root}; found none. Read are {', '.join(read)}.")
        if said := in_words(files):
            warnings.warn(f"below {self.root} {said}", stacklevel=3)

    def _pieces(self, scan: Scan) -> list[Slice]:
        """The slices of a scan."""
        subject = self._told[scan.files[0]].subject
        if scan.series is not None:
            several = len(scan.series.frames) > len(scan.files)
            return [
                Slice(path, self._told[path].subject, index if several else None, scan.path)
                for path, index in scan.series.frames
            ]
        if scan.kind not in VOLUMES:
            return [Slice(scan.path, subject, None)]
        depth = read_volume(scan.path, scan.kind).shape[self.axis]
        return [Slice(scan.path, subject, position, scan.path) for position in range(depth)]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        piece = self.slices[i]
        item: dict[str, Any] = {"image": self._fit(self._read(piece)), "filename_or_obj": str(piece.path)}
        if self._all_known:
            item["subject"] = piece.subject
        return item

    def _read(self, piece: Slice) -> Tensor:
        """The image of a slice, `(c, …)`, as it is stored."""
        image = torch.from_numpy(np.array(self._pixels(piece), dtype=np.float32))
        if not self.colour:
            return image[None]
        return (image.movedim(-1, 0) if image.ndim == 3 else image[None]).expand(3, -1, -1)

    def _fit(self, image: Tensor) -> Tensor:
        """An image in the size that was asked for."""
        return image if self.size is None else letterbox(image[None], self.size)[0]

    def _pixels(self, piece: Slice) -> np.ndarray:
        kind = self._kinds[piece.path]
        if kind is FileKind.DICOM:
            return read_frame(piece.path, piece.position or 0, self.colour, self.voi)
        if kind not in VOLUMES:
            return read_slice(piece.path, kind, self.colour)
        assert piece.position is not None
        # A view: np.take would copy the whole volume for each slice.
        pixels = np.rot90(np.moveaxis(read_volume(piece.path, kind), self.axis, 0)[piece.position])
        return self._of_interest(pixels, kind)

    def _of_interest(self, pixels: np.ndarray, kind: FileKind) -> np.ndarray:
        """The values of interest of a volume; those of DICOM are read alone."""
        return within(pixels, self.voi) if kind in UNITS and isinstance(self.voi, tuple) else pixels

    def holds(self, kinds: Collection[FileKind]) -> bool:
        """Whether any slice is of a file of these kinds."""
        return any(self._kinds[piece.path] in kinds for piece in self.slices)

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
        return count_rules([self._told[piece.path] for piece in self.slices])

    def where(self, keep: Sequence[bool] | Tensor) -> "SliceFolder":
        """The same folder restricted to the slices for which `keep` is true."""
        if len(keep) != len(self):
            raise DataError(f"needed one truth value per slice ({len(self)}); {len(keep)} came.")
        chosen = object.__new__(type(self))
        chosen.__dict__ |= self.__dict__ | {"slices": [s for s, k in zip(self.slices, keep, strict=True) if k]}
        chosen.__dict__.pop("_all_known", None)
        return chosen


class VolumeFolder(SliceFolder):
    """All volumes below a folder, each whole, with their subject: as `SliceFolder`, but an item's `image` is float32
    `(1, d, h, w)`, from foot to head, from front to back, from left to right where the file says which is what.

    A DICOM series is one volume, its images in the order in which they lie.

    Args:
        root: Folder to read, recursively.
        size: `(d, h, w)` to which volumes are fitted with their proportions kept, or None to leave them as they are.
            Needed when sizes differ and volumes are to be batched.
        subject_of: Path → subject id; overrides every other rule.
        columns: Names of the columns of manifests where they are others than `manifests.NAMES`.
        voi: Values of interest, as of `SliceFolder`.
        progress: Show a progress bar while files are read.

    Raises:
        DataError: If the folder does not exist or holds no volume that can be judged.
    """

    KINDS = (*VOLUMES, FileKind.DICOM)

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, ...] | None = None,
        subject_of: Callable[[Path], str] | None = None,
        columns: Mapping[str, str] | None = None,
        voi: Sequence[float] | str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(root, size, subject_of=subject_of, columns=columns, voi=voi, progress=progress)

    def _pieces(self, scan: Scan) -> list[Slice]:
        return [Slice(scan.files[0], self._told[scan.files[0]].subject, None, scan.path)]

    def _pixels(self, piece: Slice) -> np.ndarray:
        series = None if piece.volume is None else self._series.get(piece.volume)
        if series is None:
            kind = self._kinds[piece.path]
            voxels = self._of_interest(read_volume(piece.path, kind), kind)
        else:
            voxels = read_series(series, self.voi)
        return voxels.transpose(2, 1, 0)[:, ::-1]  # RAS (x, y, z) → depth, height, width


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
