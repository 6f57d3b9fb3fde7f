"""Images of a folder or container, checked, in memory, once for all encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.images.batches import read_batches
from mi_callback.images.files import SliceFolder
from mi_callback.images.preprocessing import check_images
from mi_callback.images.subjects.ids import normal_ids, settle
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.statistics.subjects import thin
from mi_callback.types import Subjects


@dataclass(frozen=True)
class LoadedImages:
    """Images `(n, c, *spatial)` and whose they are; subjects are None where unknown."""

    images: Tensor
    subjects: list[str] | None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def dims(self) -> int:
        """Spatial dimensions: 2 for images, 3 for volumes."""
        return self.images.ndim - 2

    @property
    def people(self) -> int:
        """Number of subjects; where they are unknown, of images."""
        return len(self) if self.subjects is None else len(set(self.subjects))


def load_images(
    source: SliceFolder | Any, subjects: Subjects | None, most: int | None, seed: int, side: str
) -> LoadedImages:
    """Images in memory, drawn equally from every subject.

    Args:
        source: A folder that was read, or what `MemorizationDetector.fit` takes.
        subjects: One id per image, where `source` does not say it.
        most: Images at most; None for all.
        seed: Of the draw.
        side: Which images they are, for messages: training or held-out.

    Raises:
        DataError: For broken images, none, or another number of subjects.
    """
    if isinstance(source, SliceFolder):
        drawn = thin(source.subjects, len(source), most, seed).tolist()
        images, known = torch.stack([source[i]["image"] for i in drawn]), _at(source.subjects, drawn)
    else:
        images, known = _read(source, subjects, side)
        drawn = thin(known, len(images), most, seed).tolist()
        images, known = images[drawn], _at(known, drawn)
    if images.ndim not in (4, 5):
        raise DataError(f"needed {side} images (n, 1, h, w), or volumes (n, 1, d, h, w); {tuple(images.shape)} came.")
    return LoadedImages(check_images(images, images.shape[1], images.ndim - 2), known)


def _read(source: Any, subjects: Subjects | None, side: str) -> tuple[Tensor, list[str] | None]:
    batches = list(read_batches(source, 64, None, None, None))
    if not batches:
        raise DataError(f"needed at least one {side} image; the data set or iterable is empty.")
    images = torch.cat([batch.images for batch in batches])
    ids: list[str | None] | None = None
    if subjects is not None:
        ids = normal_ids(subjects)
    elif all(batch.subjects is not None for batch in batches):
        ids = [subject for batch in batches for subject in batch.subjects or ()]
    if ids is not None and len(ids) != len(images):
        raise DataError(f"needed one subject per {side} image ({len(images)}); {len(ids)} came.")
    return images, _settle(ids, images)


def _settle(ids: list[str | None] | None, images: Tensor) -> list[str] | None:
    """A subject per image; an image without an id is its own."""
    if ids is None or None not in ids:
        return None if ids is None else [str(subject) for subject in ids]
    dims = images.ndim - 2
    return settle(ids, make_thumbnails(check_images(images, images.shape[1], dims), THUMBNAIL_SIDE[dims]))


def _at(values: Sequence[str] | None, rows: Sequence[int]) -> list[str] | None:
    return None if values is None else [values[i] for i in rows]
