"""Any container of images → batches with the subject and the file of each image."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from mi_callback.errors import DataError
from mi_callback.images.files import subject_in_path
from mi_callback.types import Batches, SubjectKey

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "data", "input")
SUBJECT_KEYS = ("subject", "subject_id", "patient", "patient_id", "participant_id", "subjects")
PROVENANCE = "filename_or_obj"


@dataclass(frozen=True)
class Batch:
    """What is read from one batch: images as they came, subject ids and files where there are any."""

    images: Tensor
    subjects: list[str] | None
    sources: list[str] | None


def read_batches(
    images: Any, batch_size: int, subject_key: SubjectKey, image_key: SubjectKey, progress: str | None
) -> Iterator[Batch]:
    """Any container of images → `Batch`es, in its own order."""
    batches: Batches
    if isinstance(images, (Tensor, np.ndarray)):
        if images.ndim not in (4, 5):
            raise DataError(
                f"needed images of shape (n, 1, h, w), or volumes (n, 1, d, h, w); {tuple(images.shape)} came."
            )
        batches = torch.as_tensor(images).split(batch_size)
    elif isinstance(images, Dataset) or (hasattr(images, "__getitem__") and not isinstance(images, (list, tuple))):
        # Its own generator: without one a loader draws its seed from the global random state.
        generator = torch.Generator().manual_seed(0)
        batches = DataLoader(images, batch_size=batch_size, shuffle=False, generator=generator)  # type: ignore[arg-type]
    elif isinstance(images, Iterable):
        batches = images
    else:
        raise DataError(
            f"needed a tensor, an array, a Dataset or an iterable of batches; {type(images).__name__} came."
        )
    try:
        total = len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a loader over an iterable data set
        total = None
    iterator = iter(tqdm(batches, desc=progress, total=total, unit="batch", disable=progress is None, leave=False))
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "equal size" not in str(error):
                raise
            raise DataError(
                "needed images of one size to make batches; the data set mixes sizes. Resize them in the data set, or "
                f"use SliceFolder(root, size=(256, 256)). ({error})"
            ) from error
        yield read_batch(batch, subject_key, image_key)


def read_batch(batch: Any, subject_key: SubjectKey = None, image_key: SubjectKey = None) -> Batch:
    """Find images, subject ids and files in a batch as a DataLoader gives it.

    Images are the tensor itself, the first entry of a tuple, or the first of `IMAGE_KEYS`. Subjects are under the
    first of `SUBJECT_KEYS`; else they are read from MONAI's `filename_or_obj` (see `images.subject_in_path`).

    Raises:
        DataError: If no images are found or a named key is missing.
    """
    images = _images_of(batch, image_key)
    sources = _sources_of(batch, images)
    subjects = _subjects_of(batch, subject_key)
    if subjects is None and sources is not None:
        found = [subject_in_path(source) for source in sources]
        subjects = None if None in found else [subject for subject in found if subject is not None]
    for name, values in (("subjects", subjects), ("file names", sources)):
        if values is not None and len(values) != len(images):
            raise DataError(f"needed one of {name} per image ({len(images)}); the batch holds {len(values)}.")
    return Batch(images, subjects, sources)


def _images_of(batch: Any, key: SubjectKey) -> Tensor:
    if callable(key):
        found = key(batch)
    elif isinstance(batch, Mapping):
        keys = (key,) if key is not None else IMAGE_KEYS
        name = next((name for name in keys if name in batch), None)
        if name is None:
            raise DataError(
                f"needed images under {' or '.join(map(repr, keys))}; the batch has the keys "
                f"{list(batch)}. Name the right one: image_key='…'."
            )
        found = batch[name]
    elif isinstance(batch, (list, tuple)) and len(batch):
        found = batch[0]
        if isinstance(found, Mapping):
            return _images_of(found, key)
    else:
        found = batch
    if not isinstance(found, (Tensor, np.ndarray)):
        raise DataError(
            f"needed a tensor of images in each batch; {type(found).__name__} came. Name where it is: "
            "image_key='…' or image_key=lambda batch: …."
        )
    return found if isinstance(found, Tensor) else torch.from_numpy(found)


def _subjects_of(batch: Any, key: SubjectKey) -> list[str] | None:
    if callable(key):
        return as_ids(key(batch))
    if isinstance(batch, (list, tuple)) and len(batch) and isinstance(batch[0], Mapping):
        return _subjects_of(batch[0], key)
    if not isinstance(batch, Mapping):
        if key is not None:
            raise DataError(
                f"needed a dictionary batch for subject_key={key!r}; {type(batch).__name__} came. Use a "
                "function: subject_key=lambda batch: …."
            )
        return None
    if key is not None and key not in batch:
        raise DataError(f"needed the subject ids under {key!r}; the batch has the keys {list(batch)}.")
    name = key if key is not None else next((name for name in SUBJECT_KEYS if name in batch), None)
    return None if name is None else as_ids(batch[name])


def _sources_of(batch: Any, images: Tensor) -> list[str] | None:
    meta = getattr(images, "meta", None)
    found = meta.get(PROVENANCE) if isinstance(meta, Mapping) else None
    if found is None and isinstance(batch, Mapping):
        found = batch.get(PROVENANCE)
    if isinstance(found, (str, Path)):  # slices of one volume share its file
        return [str(found)] * len(images)
    return None if found is None else as_ids(found)


def as_ids(values: Any) -> list[str]:
    """Subject ids as strings."""
    if isinstance(values, (str, Path)):
        return [str(values)]
    if isinstance(values, (Tensor, np.ndarray)):
        return [str(value) for value in values.tolist()]
    return [str(value) for value in values]
