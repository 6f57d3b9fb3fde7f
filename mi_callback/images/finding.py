"""What in a batch are the images, the subject ids and the files? By usual names, else by what they look like."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.images.subjects.ids import normal_ids
from mi_callback.images.subjects.paths import names_no_person
from mi_callback.types import SubjectKey

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "data", "input")
SUBJECT_KEYS = ("subject", "subject_id", "patient", "patient_id", "participant_id", "subjects")
PROVENANCE = "filename_or_obj"
FILE_KEYS = (PROVENANCE, "filename", "file_name", "filepath", "file_path", "image_path", "img_path", "path", "file")
"""Where batches name the file of each image; the first is MONAI's."""

LABELS = re.compile(r"(^|_)(mask|masks|seg|segs|segmentation|label|labels|target|targets|weight|weights|roi)$")
"""Names of what is shaped like an image and is none."""

PIXELS = (torch.uint8, torch.int16, torch.uint16)
"""Whole numbers that pixels are stored as; others are labels."""


class FoundImages(NamedTuple):
    """Images of a batch, where they were, and whether because nothing else looks like any."""

    pixels: Tensor
    place: str
    guessed: bool = False


class FoundSubjects(NamedTuple):
    """Ids of a batch in their normal form, None where one is missing, and where they were."""

    ids: list[str | None]
    place: str


class Entry(NamedTuple):
    """A tensor or an array in a batch, and the keys and positions that lead to it."""

    keys: tuple[Any, ...]
    value: Any

    @property
    def name(self) -> str | None:
        """The outermost key that is no position in a tuple."""
        return next((str(key) for key in self.keys if not isinstance(key, int)), None)

    @property
    def place(self) -> str:
        """How to write it down."""
        return "batch" + "".join(f"[{key!r}]" for key in self.keys)

    @property
    def is_label(self) -> bool:
        """Whether its name or its type says that it is a mask or a label."""
        if any(isinstance(key, str) and LABELS.search(key.lower()) for key in self.keys):
            return True
        dtype = torch.as_tensor(self.value[:0]).dtype
        return not (dtype.is_floating_point or dtype.is_complex or dtype in PIXELS)


def find_images(batch: Any, key: SubjectKey = None) -> FoundImages:
    """The images of a batch.

    Args:
        batch: A tensor, a dictionary, a tuple, or one in the other.
        key: Where they are: a key, a position in a tuple, or a function of the batch; None to find them.

    Raises:
        DataError: If there are none, more than one entry may be meant, or nothing is under the key.
    """
    if callable(key):
        return FoundImages(_pixels(key(batch)), "image_key(batch)")
    if key is not None:
        return FoundImages(_pixels(_named(batch, key, "images", "image_key")), f"batch[{key!r}]")
    if isinstance(batch, (Tensor, np.ndarray)):
        return FoundImages(_pixels(batch), "the batch itself")
    entries = list(_entries(batch))
    for name in IMAGE_KEYS:
        if usual := [entry for entry in entries if entry.name == name and _looks_like_images(entry.value)]:
            return _only(usual)
    alike = [entry for entry in entries if _looks_like_images(entry.value)]
    if images := [entry for entry in alike if not entry.is_label]:
        found = _only(images)
        return found._replace(guessed=images[0].keys != (0,))
    # What the user's habit calls images is looked at closely, and refused, elsewhere.
    for entry in entries:
        if entry.name in IMAGE_KEYS or entry.keys == (0,):
            return FoundImages(_pixels(entry.value), entry.place)
    raise _no_images(batch)


def find_subjects(batch: Any, key: SubjectKey, n: int) -> FoundSubjects | None:
    """The subject ids of a batch of n images; None where there are none.

    Args:
        batch: As for `find_images`.
        key: The same for ids.
        n: Number of images.

    Raises:
        DataError: If nothing is under the key.
    """
    if callable(key):
        return FoundSubjects(normal_ids(key(batch)), "by subject_key")
    if key is not None:
        return FoundSubjects(normal_ids(_named(batch, key, "subject ids", "subject_key")), f"under {key!r}")
    for mapping in _mappings(batch):
        for name in (name for usual in SUBJECT_KEYS for name in mapping if _plain(name) == _plain(usual)):
            return FoundSubjects(normal_ids(mapping[name]), f"under {name!r}")
    for texts in _texts(batch, n):
        if not _are_files(texts) and not all(names_no_person(text) for text in set(texts)):
            return FoundSubjects(normal_ids(texts), "the texts beside the images")
    return None


def find_sources(batch: Any, images: Tensor) -> list[str] | None:
    """The file of each image, where the batch or MONAI's metadata name it; None where not."""
    meta = getattr(images, "meta", None)
    holders = [*([meta] if isinstance(meta, Mapping) else []), *_mappings(batch)]
    for name in FILE_KEYS:
        for holder in holders:
            if (files := _files(holder.get(name), len(images))) is not None:
                return files
    return next((texts for texts in _texts(batch, len(images)) if _are_files(texts)), None)


def _only(images: Sequence[Entry]) -> FoundImages:
    if len(images) > 1:
        keys = images[0].keys
        short = f"image_key={keys[0]!r}, or " if len(keys) == 1 else ""
        raise DataError(
            f"needed to know which are the images; {', '.join(entry.place for entry in images)} all look like some. "
            f"Name them: {short}image_key=lambda batch: {images[0].place}."
        )
    return FoundImages(_pixels(images[0].value), images[0].place)


def _files(found: Any, n: int) -> list[str] | None:
    if isinstance(found, (str, PurePath)):  # slices of one volume share its file
        return [str(found)] * n
    if isinstance(found, np.ndarray):
        found = found.tolist()
    if isinstance(found, Sequence) and all(isinstance(one, (str, PurePath)) for one in found):
        return [str(one) for one in found]
    return None


def _named(batch: Any, key: Any, what: str, option: str) -> Any:
    """What is under a key that the user named, in the batch or in a dictionary in it."""
    mappings = list(_mappings(batch))
    for mapping in mappings:
        if key in mapping:
            return mapping[key]
    if isinstance(key, int) and isinstance(batch, (list, tuple)):
        if -len(batch) <= key < len(batch):
            return batch[key]
        raise DataError(f"needed the {what} at position {key}; the batch has {len(batch)} entries. Set {option}=….")
    if not mappings:
        raise DataError(
            f"needed a dictionary batch for {option}={key!r}; {type(batch).__name__} came. Use a position, or a "
            f"function: {option}=lambda batch: …."
        )
    raise DataError(f"needed the {what} under {key!r}; the batch has the keys {list(mappings[0])}.")


def _no_images(batch: Any) -> DataError:
    mappings = list(_mappings(batch))
    if mappings:
        return DataError(
            f"needed images under {' or '.join(map(repr, IMAGE_KEYS))}, or one tensor (n, c, h, w); the batch has the "
            f"keys {list(mappings[0])}. Name the right one: image_key='…'."
        )
    return _no_tensor(batch[0] if isinstance(batch, (list, tuple)) and len(batch) else batch)


def _no_tensor(found: Any) -> DataError:
    return DataError(
        f"needed a tensor of images in each batch; {type(found).__name__} came. Name where it is: "
        "image_key='…' or image_key=lambda batch: …."
    )


def _pixels(found: Any) -> Tensor:
    if isinstance(found, Tensor):
        return found
    if isinstance(found, np.ndarray) and found.dtype != object:
        return torch.from_numpy(found)
    raise _no_tensor(found)


def _entries(batch: Any, keys: tuple[Any, ...] = ()) -> Iterator[Entry]:
    """Every tensor and array in a batch, at any depth, in its order."""
    if isinstance(batch, (Tensor, np.ndarray)):
        yield Entry(keys, batch)
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _entries(value, (*keys, key))
    elif isinstance(batch, (list, tuple)):
        for position, value in enumerate(batch):
            yield from _entries(value, (*keys, position))


def _mappings(batch: Any) -> Iterator[Mapping[Any, Any]]:
    """Every dictionary in a batch, the outermost first."""
    level = [batch]
    while level:
        yield from (part for part in level if isinstance(part, Mapping))
        inner = [list(part.values()) if isinstance(part, Mapping) else part for part in level]
        level = [one for part in inner if isinstance(part, (list, tuple)) for one in part]


def _texts(batch: Any, n: int) -> Iterator[list[str]]:
    """Entries of a tuple that hold a text per image."""
    for part in batch if isinstance(batch, (list, tuple)) else ():
        if isinstance(part, (list, tuple)) and len(part) == n and all(isinstance(one, (str, PurePath)) for one in part):
            yield [str(one) for one in part]


def _are_files(texts: Sequence[str]) -> bool:
    return all("/" in text or "\\" in text or re.search(r"\.[A-Za-z]{2,5}(\.gz)?$", text) for text in texts)


def _looks_like_images(value: Any) -> bool:
    """`(n, c, h, w)` or `(n, c, d, h, w)`, and more than one pixel a side."""
    return value.ndim in (4, 5) and value.dtype != object and min(value.shape[2:]) > 1


def _plain(name: Any) -> str:
    """A key as it is compared: `PatientID` is `patient_id`."""
    return re.sub(r"[\W_]+", "", str(name)).casefold()
