"""The reference follows the training data: what comes new while training is searched too, and nothing is forgotten."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mi_callback.detection.planting import PLANTED
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import MemorizationError, StateError
from mi_callback.images.batches import PROVENANCE, Batch, read_batch, read_batches
from mi_callback.images.preprocessing import check_images
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.subjects.ids import settle
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.lightning.data.copying import private_copy
from mi_callback.lightning.data.sides import Sides, Source
from mi_callback.retrieval.features import Features, concatenate, digest
from mi_callback.state import fingerprint

SAMPLED = 64
"""Images of each training loader that are compared with what is known, at a look: others at every look."""

FIRST_BATCHES = 2
"""Batches of a stream that are compared."""


class TrainingReference:
    """A detector that is fitted on what the Trainer trains on, and fitted again when that changes.

    Args:
        detector: Not fitted yet.
        progress: Show progress bars.
        lenient: Whether a cache that cannot be written is said, and no error.

    Attributes:
        not_stored: Why the cache was not written; None where it was, or none was asked for.
        not_loaded: Why a cache that exists was not used; None where it was.
    """

    def __init__(self, detector: MemorizationDetector, progress: bool = False, lenient: bool = False) -> None:
        self.detector, self.progress, self.lenient = detector, progress, lenient
        self._train: Features | None = None
        self._held_out: Features | None = None
        self._known: set[bytes] = set()
        self._told: set[str] = set()
        self._random = False
        self._sizes: list[int] = []
        self._datasets: list[Any] = []
        self._poses: Sequence[str] = ()
        self.not_loaded: str | None = None
        self.not_stored: str | None = None

    def fit(self, sides: Sides, cache: str | Path | None) -> bool:
        """Encode both sides and calibrate, or load what was fitted on the same data before. Whether it was loaded.

        Raises:
            MemorizationError: As `MemorizationDetector.fit`.
        """
        size = self.detector.batch_size
        self._random = sides.random()
        stored, data = False, None
        if cache is not None and not self._random:
            data = fingerprint(sides.training(size), sides.novel(size), **sides.keys)
            stored = self._load(cache, data)
        if not stored:
            self._extract_and_fit(sides)
            if cache is not None and data is not None:
                self._store(cache, data)
        train = self.detector.state.train
        self._known, self._told = set(train.digests()), _names(train.subjects, train.sources)
        self._sizes = [_size(source) for source in sides.train]
        self._datasets = [getattr(source.data, "dataset", source.data) for source in sides.train]
        # A stream that shows other images when it is read again: augmented, or shuffled without an end.
        self._random = self._random or not self._sampled(sides, look=0) <= self._known
        return stored

    def catch_up(self, sides: Sides, look: int) -> str | None:
        """Add what is trained on now, and was not before, to the reference; what was removed stays.

        Args:
            sides: As they are now.
            look: Number of this look: every look samples other images.

        Returns:
            How many images are new, in words; None where nothing is.

        Raises:
            StateError: Where new images are seen, or cannot be excluded, and the reference cannot be fitted to them.
        """
        if self._random:
            self._check_augmented(sides, look)
            return None
        sizes = [_size(source) for source in sides.train]
        if self._sampled(sides, look) <= self._known and sizes == self._sizes:
            return None
        if self._train is None:
            raise StateError(
                "training data changed, and a state that was loaded cannot be fitted to them: train without cache=…"
            )
        count = self._add(sides)
        self._sizes = sizes
        return f"{count} training images are new and are searched too from here on" if count else None

    @property
    def random(self) -> bool:
        """Whether training images change at random whenever they are read."""
        return self._random

    # Fitting ----------------------------------------------------------------------------------------------------------

    def _extract_and_fit(self, sides: Sides) -> None:
        """As `MemorizationDetector.fit`, with the features kept in all poses that a later fit needs."""
        detector, size = self.detector, self.detector.batch_size
        novel = sides.novel(size)
        kind = detector.fitter.kind(novel)
        planted = Reservoir(PLANTED[detector.dims], detector.seed)
        label = "training features" if self.progress else None
        self._poses = detector.poses if kind != "held_out" else detector.poses[:1]
        train = detector.features(
            sides.training(size), self._poses, views=True, label=label, keep=planted, **sides.keys
        )
        held_out = None
        if novel is not None and (kind == "held_out" or detector.contrast):
            held_out = detector.features(novel, label="held-out features" if self.progress else None, **sides.keys)
        detector.fit_features(train, held_out, planted, self.progress)
        self._train, self._held_out = train, held_out

    def _add(self, sides: Sides) -> int:
        """Encode the training images that are not known, and fit again on all."""
        assert self._train is not None
        planted = self.detector.state.planted
        fresh = [batch for batch in self._unknown(sides) if len(batch["image"])]
        if not fresh:
            return 0
        new = self.detector.features(fresh, self._poses, views=True)
        train = _union(self._train, new)
        control = self.detector.control
        self.detector.fit_features(train, self._held_out, planted)
        self.detector.control = control
        self._train = train
        self._known |= set(new.digests())
        self._told |= _names(new.subjects, new.sources)
        return len(new)

    def _unknown(self, sides: Sides) -> Iterator[dict[str, Any]]:
        """What of the training images is not known, in batches."""
        seen = set(self._known)
        for batch in read_batches(sides.training(self.detector.batch_size), 64, **sides.keys, progress=None):
            chosen = []
            for i, one in enumerate(self._digests([batch])):
                if one not in seen:
                    seen.add(one)
                    chosen.append(i)
            found: dict[str, Any] = {"image": batch.images[chosen]}
            for key, values in (("subject", batch.subjects), (PROVENANCE, batch.sources)):
                if values is not None:
                    found[key] = [values[i] for i in chosen]
            yield found

    def _store(self, cache: str | Path, data: str) -> None:
        try:
            self.detector.save(cache, data)
        except Exception as error:
            if not self.lenient:
                raise
            self.not_stored = str(error) if isinstance(error, MemorizationError) else type(error).__name__

    def _load(self, cache: str | Path, data: str) -> bool:
        if not self.detector.is_kept(cache, data):
            return False
        try:
            self.detector.load(cache, data)
        except Exception as error:
            self.not_loaded = str(error) if isinstance(error, MemorizationError) else type(error).__name__
            return False
        return True

    # Looking ----------------------------------------------------------------------------------------------------------

    def _sampled(self, sides: Sides, look: int) -> set[bytes]:
        return {one for source in sides.train for one in self._digests(_sample(source, sides, look))}

    def _digests(self, batches: list[Batch]) -> list[bytes]:
        encoder, dims = self.detector.encoder, self.detector.dims
        images = [check_images(batch.images, encoder.channels, dims) for batch in batches]
        return [digest(one) for some in images for one in make_thumbnails(some.cpu(), THUMBNAIL_SIDE[dims])]

    def _check_augmented(self, sides: Sides, look: int) -> None:
        """Images that change at random are known by their ids and files, and by their number.

        Raises:
            StateError: If there are others than before.
        """
        batches = [batch for source in sides.train for batch in _sample(source, sides, look)]
        told = set().union(*(_names(batch.subjects, batch.sources) for batch in batches))
        datasets = [getattr(source.data, "dataset", source.data) for source in sides.train]
        others = not told and any(one is not other for one, other in zip(datasets, self._datasets, strict=False))
        if others or not told <= self._told or [_size(source) for source in sides.train] != self._sizes:
            raise StateError(
                "training data changed, and images that change at random cannot be compared: pass all that will be "
                "trained on, without augmentation, MemorizationCallback(train=…)"
            )


def _sample(source: Source, sides: Sides, look: int) -> list[Batch]:
    """Some images of a source, others at every look."""
    if source.stream:
        parts = replace(source, limit=min(FIRST_BATCHES, source.limit or FIRST_BATCHES)).batches(1)
        return [read_batch(batch, **sides.keys) for batch in parts]
    dataset = source.data.dataset if isinstance(source.data, DataLoader) else source.data
    if not isinstance(dataset, Dataset) and not isinstance(source.data, DataLoader):
        return []  # the user's own images, in memory or to be read once
    collate = source.data.collate_fn if isinstance(source.data, DataLoader) else default_collate
    one_by_one = not isinstance(source.data, DataLoader) or source.data.batch_sampler is not None
    rows = range(len(dataset)) if source.rows is None else source.rows  # type: ignore[arg-type]
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(look))[:SAMPLED].tolist()
    places = {*drawn, 0, len(rows) - 1} if len(rows) else set()
    copied = private_copy(dataset, source.shared)
    items = [copied[rows[place]] for place in sorted(places)]
    return [read_batch(collate([item]) if one_by_one else collate(item), **sides.keys) for item in items]


def _union(one: Features, other: Features) -> Features:
    """Images of both in the order in which they came; nobody's where neither side has ids."""
    subjects, sources = None, None
    if one.subjects is not None or other.subjects is not None:
        # A side without ids is of people of their own.
        subjects = _settled(one) + _settled(other)
    if one.sources is not None and other.sources is not None:
        sources = one.sources + other.sources
    return replace(concatenate(one, other), subjects=subjects, sources=sources)


def _settled(features: Features) -> list[str]:
    if features.subjects is not None:
        return features.subjects
    alone = settle(["somebody", *[None] * len(features)], features.thumbnails[[0, *range(len(features))]])
    return (alone or [])[1:]


def _names(subjects: Any, sources: Any) -> set[str]:
    return {name for name in (*(subjects or ()), *(sources or ())) if name is not None}


def _size(source: Source) -> int:
    """Number of rows; −1 of a stream, which has none."""
    if source.stream:
        return -1
    if source.rows is not None:
        return len(source.rows)
    try:
        return len(source.data)
    except TypeError:
        return -1
