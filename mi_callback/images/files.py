"""Files on disk → slices that know their subject."""

import csv
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mi_callback.errors import DataError
from mi_callback.images.resizing import letterbox
from mi_callback.images.subjects.ids import normal_id
from mi_callback.images.subjects.paths import VOLUMES, Attribution, Rule, attribute_files, count_rules

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ARRAYS = (".npy",)
DICOM = (".dcm", ".ima")
ENDINGS = {"picture": PICTURES, "array": ARRAYS, "volume": VOLUMES, "dicom": DICOM}
MANIFEST = "manifest.csv"


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
        DataError: If the folder does not exist or holds no image.
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
        self.root, self.size, self.axis, self.colour = Path(root), size, axis, colour
        if not self.root.is_dir():
            raise DataError(f"needed a folder of images; {self.root} is not a folder.")
        files = sorted(path for path in self.root.rglob("*") if path.is_file() and _kind(path) in self.KINDS)
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
        manifest = {path: normal_id(subject) for path, subject in _read_manifests(self.root).items()}
        listed = {path: Attribution(subject, Rule.MANIFEST) for path, subject in manifest.items() if subject}
        others = [path for path in files if path not in listed]
        told = dict(zip(others, attribute_files(others, self.root, _patient), strict=True))
        return [listed.get(path) or told[path] for path in files]

    def _positions(self, path: Path) -> Sequence[int | None]:
        return range(_depth(path, self.axis)) if _kind(path) == "volume" else [None]

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
        _depth(path, self.axis)  # refuses what is no volume
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


def read_image(path: Path, colour: bool = False) -> np.ndarray:
    """Pixels of one file: `(h, w)`, or `(x, y, z)` in RAS orientation for NIfTI. Intensities as stored.

    Args:
        colour: Read pictures as `(h, w, 3)`.

    Raises:
        DataError: If the file is damaged, has colour that was not asked for, or holds more than one slice without being
            a volume.
    """
    try:
        return _read(path, colour)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"needed a readable image; {path} is damaged or not what its name says ({error}).") from error


def _read(path: Path, colour: bool) -> np.ndarray:
    match _kind(path):
        case "volume":
            return _read_volume(path, path.stat().st_mtime_ns)
        case "dicom":
            import pydicom

            scan = pydicom.dcmread(path)
            pixels = _in_units(_single_channel(scan.pixel_array, path), scan)
            # MONOCHROME1 stores bright as low; grey values are turned so that bright is high everywhere.
            return pixels.max() - pixels if scan.get("PhotometricInterpretation") == "MONOCHROME1" else pixels
        case "array":
            return _single_channel(np.load(path, allow_pickle=False), path)
        case _:
            from PIL import Image

            with Image.open(path) as picture:
                if (pages := getattr(picture, "n_frames", 1)) > 1:
                    raise DataError(f"needed one slice in {path}; it has {pages} pages. Save them apart.")
                if colour:
                    return np.asarray(picture.convert("RGB"))
                return _single_channel(np.asarray(picture.convert("RGB") if picture.mode == "P" else picture), path)


def _in_units(pixels: np.ndarray, scan: Any) -> np.ndarray:
    """Stored values → those that they stand for: Hounsfield units in CT. Unchanged where the file says nothing."""
    slope, intercept = float(scan.get("RescaleSlope") or 1), float(scan.get("RescaleIntercept") or 0)
    return pixels if (slope, intercept) == (1, 0) else pixels.astype(np.float32) * slope + intercept


@lru_cache(maxsize=4)
def _read_volume(path: Path, _changed: int) -> np.ndarray:
    """A volume is read once for all of its slices, and again when the file has changed."""
    import nibabel

    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj, dtype=np.float32)


def _single_channel(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        colours = pixels[..., :3]
        if not (colours == colours[..., :1]).all():
            raise DataError(
                f"needed a single-channel image; {path} has colour. Convert it to grey values, or say colour=True."
            )
        pixels = colours[..., 0]
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels.reshape([side for side in pixels.shape if side != 1] or [1, 1])
    if pixels.ndim != 2:
        raise DataError(f"needed one (h, w) slice; {path} has shape {pixels.shape}.")
    return pixels


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)


def _depth(path: Path, axis: int) -> int:
    import nibabel

    image: Any = nibabel.load(path)
    if len(image.shape) != 3:
        raise DataError(f"needed a 3D volume; {path} has shape {image.shape}. Split its channels or time points.")
    return nibabel.as_closest_canonical(image).shape[axis]


def _read_manifests(root: Path) -> dict[Path, str]:
    """`file` and `subject` of every manifest at or below `root`, and of the one beside `root`."""
    subject_of: dict[Path, str] = {}
    for manifest in [root.parent / MANIFEST, *root.rglob(MANIFEST)]:
        if not manifest.is_file():
            continue
        with manifest.open(newline="", encoding="utf-8-sig") as lines:
            for row in csv.DictReader(lines):
                if row.get("file") and row.get("subject"):
                    subject_of[manifest.parent / row["file"]] = row["subject"]
    return subject_of


def _patient(path: Path) -> str | None:
    """The PatientID of a DICOM file; None for other files, and where there is none."""
    if _kind(path) != "dicom":
        return None
    import pydicom

    patient = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID")
    return None if patient is None else str(patient)
