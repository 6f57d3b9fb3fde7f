"""Any container of images → batches with the subject and the file of each image."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mi_callback.errors import DataError
from mi_callback.images.finding import PROVENANCE, find_images, find_sources, find_subjects
from mi_callback.images.progress import counted
from mi_callback.images.subjects.paths import Rule, attribute_path
from mi_callback.types import Batches, SubjectKey


@dataclass(frozen=True)
class Batch:
    """What is read from one batch.

    Attributes:
        images: As they came, with a batch axis.
        subjects: Ids in their normal form, None where one is missing; None altogether where there are none.
        sources: Files, where the batch names them.
        place: Where the images were, in words: `batch['image']`.
        guessed: Whether they were taken because nothing else in the batch looks like images.
        rule: What told the subjects, in words; None where nothing did.
    """

    images: Tensor
    subjects: list[str | None] | None
    sources: list[str] | None
    place: str = "the batch itself"
    guessed: bool = False
    rule: str | None = None

    def without_ids(self) -> dict[str, Any]:
        """The images and their files, as a batch that `read_batches` takes."""
        return {"image": self.images} | ({} if self.sources is None else {PROVENANCE: self.sources})

    def digests(self) -> list[bytes]:
        """16 bytes for each image: others for another pixel, type, shape or subject."""
        images = self.images.detach().as_subclass(Tensor).cpu().contiguous()
        kind = repr((images.dtype, tuple(images.shape[1:])))
        rows = images.flatten(1).view(torch.uint8).numpy()
        ids = self.subjects or [None] * len(images)
        return [
            blake2b(row, digest_size=16, key=blake2b(f"{kind}{one!r}".encode(), digest_size=32).digest()).digest()
            for row, one in zip(rows, ids, strict=True)
        ]


def read_batches(
    images: Any, batch_size: int, subject_key: SubjectKey, image_key: SubjectKey, progress: str | None
) -> Iterator[Batch]:
    """Any container of images → `Batch`es, in its own order.

    Args:
        images: Tensor or array `(n, 1, h, w)`, or volumes `(n, 1, d, h, w)`, a Dataset, or an iterable of batches.
        batch_size: Images per batch, where the container is not made of batches.
        subject_key, image_key: Where a batch holds ids and images: a key, a position, or a function of the batch.
        progress: Label of the progress bar, or None for no bar.

    Raises:
        DataError: For anything else, mixed sizes, or batches in which images cannot be told.
    """
    batches = _batched(images, batch_size)
    try:
        total = len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a loader over an iterable data set
        total = None
    iterator = iter(counted(batches, progress, "batch", total))
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
        found = read_batch(batch, subject_key, image_key)
        if found.guessed:
            warnings.warn(
                f"images are taken from {found.place}, where alone there are any. Name them to be sure: image_key=….",
                stacklevel=2,
            )
        yield found


def read_batch(batch: Any, subject_key: SubjectKey = None, image_key: SubjectKey = None) -> Batch:
    """Find images, subject ids and files in a batch as a DataLoader gives it.

    Images are the tensor itself, or under the first of `finding.IMAGE_KEYS`, or else the only entry that looks like
    images. Subjects are under the first of `finding.SUBJECT_KEYS`, in a dictionary or a list of texts beside the image;
    else they are read from MONAI's `filename_or_obj` and the like (see `subjects.paths.attribute_path`).

    Raises:
        DataError: If no images are found, more than one entry may be meant, or a named key is missing.
    """
    images = find_images(batch, image_key)
    sources = find_sources(batch, images.pixels)
    subjects = find_subjects(batch, subject_key, len(images.pixels))
    ids, rule = (None, None) if subjects is None else (subjects.ids, subjects.place)
    if ids is None and sources is not None:
        ids, rule = _subjects_of_files(sources)
    for name, values in (("subjects", ids), ("file names", sources)):
        if values is not None and len(values) != len(images.pixels):
            raise DataError(f"needed one of {name} per image ({len(images.pixels)}); the batch holds {len(values)}.")
    return Batch(images.pixels, ids, sources, images.place, images.guessed, rule)


def _batched(images: Any, batch_size: int) -> Batches:
    if isinstance(images, (Tensor, np.ndarray)):
        if images.ndim not in (4, 5):
            raise DataError(
                f"needed images of shape (n, 1, h, w), or volumes (n, 1, d, h, w); {tuple(images.shape)} came."
            )
        return torch.as_tensor(images).split(batch_size)
    if isinstance(images, Dataset) or (hasattr(images, "__getitem__") and not isinstance(images, (list, tuple))):
        # Its own generator: without one a loader draws its seed from the global random state.
        generator = torch.Generator().manual_seed(0)
        return DataLoader(images, batch_size=batch_size, shuffle=False, generator=generator)  # type: ignore[arg-type]
    if isinstance(images, Iterable):
        return images
    raise DataError(f"needed a tensor, an array, a Dataset or an iterable of batches; {type(images).__name__} came.")


def _subjects_of_files(sources: list[str]) -> tuple[list[str | None] | None, str | None]:
    """Subjects by file, for all or for none, and what told them."""
    found = [attribute_path(source) for source in sources]
    if any(subject is None for subject, _ in found):
        return None, None
    rules = {rule for _, rule in found}
    return [subject for subject, _ in found], " and ".join(
        sorted(Rule(rule).value for rule in rules)
    ) + " in file names"


__all__ = ["PROVENANCE", "Batch", "read_batch", "read_batches"]
