"""What an audit has computed stays until it ends: the same command, after a kill, goes on from there.

Features and matches are kept in blocks, each under a hash of all that it follows from: pixels, people, settings, code.
So nothing that changed is ever taken for what it was. The blocks are patient data, and go when the audit ends.
"""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_callback.auditing.reports.writing import UNFINISHED
from mi_callback.cache import Kept
from mi_callback.detection.matching import MATCHING, Match, Matcher
from mi_callback.detector import MemorizationDetector
from mi_callback.fingerprints import canonical_json, content_hash
from mi_callback.images.batches import read_batches
from mi_callback.images.preprocessing import check_images
from mi_callback.images.progress import counted
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.subjects.ids import normal_ids
from mi_callback.retrieval.candidates import Candidates
from mi_callback.retrieval.features import Features, GrowingFeatures
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import Neighbours
from mi_callback.types import SubjectKey, Subjects, Thumbnails

KINDS = (Features, Match, Neighbours, Candidates)
"""All that a block may hold beside tensors, texts and numbers: reading one runs no other code."""


@contextmanager
def kept_in(out: Path | None) -> Iterator[Kept | None]:
    """Blocks in the folder of a report; they go when the context ends, and stay, which is said, when it is cut short.

    Args:
        out: The folder; None where nothing may be written.
    """
    if out is None:
        yield None
        return
    folder = out / UNFINISHED
    try:
        yield Kept(folder, KINDS)
    except BaseException:
        if folder.is_dir():
            warnings.warn(
                f"what was computed so far is kept in {folder} (patient data): the same command goes on from there. "
                "Delete the folder if you will not run it again.",
                stacklevel=3,
            )
        raise
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        warnings.warn(f"{folder} could not be removed ({error.strerror}): delete it, it is patient data.", stacklevel=3)


class ResumableDetector(MemorizationDetector):
    """A detector that computes in blocks, and no block twice.

    Args:
        kept: Where blocks are kept.
        options: Of `MemorizationDetector`.
    """

    def __init__(self, kept: Kept, **options: Any) -> None:
        super().__init__(**options)
        self.kept = kept

    @property
    def match(self) -> Matcher:
        """How images are looked up: as by any detector, in blocks."""
        plain = super().match
        parts = {field.name: getattr(plain, field.name) for field in fields(Matcher)}
        return _KeptMatcher(**parts, kept=self.kept, settings=self._settings)

    def features(
        self,
        images: Any,
        poses: Sequence[str] | None = None,
        subjects: Subjects | None = None,
        views: bool = False,
        plain: bool = False,
        label: str | None = None,
        keep: Reservoir | None = None,
        **read: SubjectKey,
    ) -> Features:
        """As those of any detector, in blocks of one batch."""
        ids = None if subjects is None else normal_ids(subjects)
        keys: dict[str, Any] = {"subject_key": None, "image_key": None} | read
        grown, done = GrowingFeatures(), 0
        whole = super().features
        for batch in read_batches(images, self.batch_size, progress=label, **keys):
            own = batch.without_ids()
            key = content_hash(self._settings, list(self.poses if poses is None else poses), views, plain, own)

            def encode(own: dict[str, Any] = own) -> Features:
                return whole([own], poses, views=views, plain=plain)

            people = batch.subjects if ids is None else ids[done : done + len(batch.images)]
            grown.append(self.kept.part(key, encode), people)
            if keep is not None:
                keep.offer(check_images(batch.images, self.encoder.channels, self.dims))
            done += len(batch.images)
        return grown.features() if done else whole(images, poses, subjects, **keys)

    @cached_property
    def _settings(self) -> str:
        """All that changes what the same images give."""
        beside = {"backend": str(self.backend), "device": self.device.type, "torch": str(torch.__version__)}
        return canonical_json(self.settings() | beside)


@dataclass(frozen=True)
class _KeptMatcher(Matcher):
    """Looks queries up in blocks.

    Attributes:
        kept: Where blocks are kept.
        settings: All that changes what is found, beside the images.
    """

    kept: Kept
    settings: str

    def __call__(
        self, queries: Features, reference: Reference, references: Thumbnails, label: str | None = None
    ) -> Match:
        means = {layer: whitening.mean for layer, whitening in reference.whitenings.items()}
        among = content_hash(self.settings, references, means, list(reference.subjects or ()), sorted(reference.views))
        blocks = torch.arange(len(queries)).split(MATCHING[queries.dims].at_once)
        find, parts = super().__call__, []
        for rows in counted(blocks, label, "block"):
            some = queries.where(rows)
            key = content_hash(among, some.thumbnails, some.layers, some.windows, some.views, some.descriptors)
            parts.append(self.kept.part(key, lambda some=some: find(some, reference, references)))  # type: ignore[misc]
        return _matches_together(parts)


def _matches_together(parts: Sequence[Any]) -> Any:
    """Dataclasses of tensors that have queries along their first axis; `nearest` has looks before them."""
    joined = {}
    for field in fields(parts[0]):
        each = [getattr(part, field.name) for part in parts]
        if isinstance(each[0], Tensor):
            joined[field.name] = torch.cat(each, dim=1 if field.name == "nearest" else 0)
        else:
            joined[field.name] = _matches_together(each)
    return type(parts[0])(**joined)
