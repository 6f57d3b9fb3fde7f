"""The reference follows the training data: what comes new while training is searched too, and nothing is forgotten."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mi_callback.detection.planting import PLANTED
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import MemorizationError, StateError
from mi_callback.images.batches import Batch, read_batch
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.subjects.ids import settle
from mi_callback.lightning.data.copying import private_copy
from mi_callback.lightning.data.sides import Sides, Source
from mi_callback.lightning.ranks import Ranks
from mi_callback.lightning.rounds import Rounds, digests_of, read_alike
from mi_callback.retrieval.features import Features, concatenate
from mi_callback.state import fingerprint

SAMPLED = 64
"""Images of each training loader that are compared with what is known, at a look: others at every look."""

FIRST_BATCHES = 2
"""Batches of a stream that are compared."""


class TrainingReference:
    """A detector that is fitted on what the Trainer trains on, and fitted again when that changes.

    Args:
        detector: Not fitted yet; that of rank zero will be.
        ranks: Of the run, all of which call each method.
        progress: Show progress bars.
        lenient: Whether a cache that cannot be written is said, and no error.
        tell: Takes the number of training images and the seconds that encoding them will take, once that can be told.

    Attributes:
        not_stored: Why the cache was not written; None where it was, or none was asked for.
        not_loaded: Why a cache that exists was not used; None where it was.
    """

    def __init__(
        self,
        detector: MemorizationDetector,
        ranks: Ranks,
        progress: bool = False,
        lenient: bool = False,
        tell: Callable[[int, float], None] | None = None,
    ) -> None:
        self.detector, self.ranks, self.progress, self.lenient = detector, ranks, progress, lenient
        self.tell = tell
        self._train: Features | None = None
        self._held_out: Features | None = None
        self._known: set[bytes] = set()
        self._told: set[str] = set()
        self._random = False
        self._sizes: list[int] = []
        self._datasets: list[Any] = []
        self._poses: Sequence[str] = ()
        self._loaded = False
        self.not_loaded: str | None = None
        self.not_stored: str | None = None

    def fit(self, sides: Sides, cache: str | Path | None) -> bool:
        """Encode both sides and calibrate, or load what was fitted on the same data before. Whether it was loaded.

        Raises:
            MemorizationError: As `MemorizationDetector.fit`.
        """
        self._random = any(self.ranks.each(sides.random))
        key = None if cache is None or self._random else self._key(sides)
        found = self.ranks.each(lambda: cache is not None and key is not None and self._load(cache, key))
        self._loaded = found[0]
        if not self._loaded:
            self._extract_and_fit(sides)
            with self.ranks.together():
                if cache is not None and key is not None:
                    self._store(cache, key)
        self._remember(sides)
        return self._loaded

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
            with self.ranks.together():
                self._check_augmented(sides, look)
            return None
        sizes = [source.size for source in sides.train]
        if not any(self.ranks.each(lambda: sizes != self._sizes or not self._sampled(sides, look) <= self._known)):
            return None
        if self._loaded:
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
        detector, ranks = self.detector, self.ranks
        kind = ranks.each(lambda: detector.fitter.kind(sides.held_out or None))[0]
        planted = Reservoir(PLANTED[detector.dims], detector.seed)
        label, novel = ("training features", "held-out features") if self.progress else (None, None)
        self._poses = detector.poses if kind != "held_out" else detector.poses[:1]
        rounds = Rounds(ranks, detector, sides.keys, self._poses, True, planted, label=label, tell=self.tell)
        train, held_out = rounds.features(sides.train), None
        if sides.held_out and (kind == "held_out" or detector.contrast):
            held_out = Rounds(ranks, detector, sides.keys, label=novel).features(sides.held_out)
        with ranks.together():
            if train is not None:
                detector.fit_features(train, held_out, planted, self.progress)
        self._train, self._held_out = train, held_out

    def _add(self, sides: Sides) -> int:
        """Encode the training images that are not known, and fit again on all; how many these are."""
        new = Rounds(self.ranks, self.detector, sides.keys, self._poses, True, known=self._known).features(sides.train)
        with self.ranks.together():
            if new is not None:
                self._fit_again(new)
        found = None if new is None else (set(new.digests()), _names(new.subjects, new.sources))
        if (added := self.ranks.from_zero(found)) is None:
            return 0
        self._known |= added[0]
        self._told |= added[1]
        return len(added[0])

    def _fit_again(self, new: Features) -> None:
        assert self._train is not None
        planted, control = self.detector.state.planted, self.detector.control
        train = _union(self._train, new)
        self.detector.fit_features(train, self._held_out, planted)
        self.detector.control, self._train = control, train

    def _remember(self, sides: Sides) -> None:
        """Keep what tells on every rank whether other images are trained on."""
        known: tuple[set[bytes], set[str]] | None = None
        if self.ranks.first:
            train = self.detector.state.train
            known = set(train.digests()), _names(train.subjects, train.sources)
        found = self.ranks.from_zero(known)
        assert found is not None
        self._known, self._told = found
        self._sizes = [source.size for source in sides.train]
        self._datasets = [getattr(source.data, "dataset", source.data) for source in sides.train]
        # A stream that shows other images when it is read again: augmented, or shuffled without an end.
        others = self.ranks.each(lambda: not self._sampled(sides, look=0) <= self._known)
        self._random = self._random or any(others)

    def _key(self, sides: Sides) -> str | None:
        """A hash of all data, on rank zero; None on others, and where ranks read data of their own."""
        size = self.detector.batch_size
        if not all(read_alike(self.ranks, [*sides.train, *sides.held_out], sides.keys)):
            self.not_loaded = "each rank reads data of its own"
            return None
        with_data = self.ranks.first
        return self.ranks.each(
            lambda: fingerprint(sides.training(size), sides.novel(size), **sides.keys) if with_data else None
        )[self.ranks.rank]

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
        return [one for batch in batches for one in digests_of(self.detector, batch)]

    def _check_augmented(self, sides: Sides, look: int) -> None:
        """Images that change at random are known by their ids and files, and by their number.

        Raises:
            StateError: If there are others than before.
        """
        batches = [batch for source in sides.train for batch in _sample(source, sides, look)]
        told = set().union(*(_names(batch.subjects, batch.sources) for batch in batches))
        datasets = [getattr(source.data, "dataset", source.data) for source in sides.train]
        others = not told and any(one is not other for one, other in zip(datasets, self._datasets, strict=False))
        if others or not told <= self._told or [source.size for source in sides.train] != self._sizes:
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
