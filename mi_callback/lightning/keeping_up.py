"""The reference follows the training data: what comes new while training is searched too, and nothing is forgotten."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mi_callback.cache import Identity
from mi_callback.detection.planting import PLANTED
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import MemorizationError, StateError
from mi_callback.images.batches import Batch, read_batch
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.subjects.ids import settle
from mi_callback.lightning.data.remembering import Memory
from mi_callback.lightning.data.sides import Sides, Source
from mi_callback.lightning.ranks import Ranks
from mi_callback.lightning.rounds import Rounds, digests_of, read_alike
from mi_callback.retrieval.features import Features, concatenate

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
        full_check: Whether every image is read to see whether a cache is of the same ones.

    Attributes:
        not_stored: Why the cache was not written; None where it was, or none was asked for.
        not_loaded: Why a cache that exists was not used; None where it was.
        reused: Training images that were encoded for a state in the cache, on rank zero.
        place: The file of the state in the cache, on rank zero; None where it is in none.
    """

    def __init__(
        self,
        detector: MemorizationDetector,
        ranks: Ranks,
        progress: bool = False,
        lenient: bool = False,
        tell: Callable[[int, float], None] | None = None,
        full_check: bool = False,
    ) -> None:
        self.detector, self.ranks, self.progress, self.lenient = detector, ranks, progress, lenient
        self.tell, self.full_check = tell, full_check
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
        self.reused = 0
        self.place: Path | None = None

    def fit(self, sides: Sides, cache: str | Path | None) -> bool:
        """Encode both sides and calibrate, or load what was fitted on the same data before. Whether it was loaded.

        Raises:
            MemorizationError: As `MemorizationDetector.fit`.
        """
        self._random = any(self.ranks.each(sides.random))
        memory = None if cache is None or self._random else self._memory(sides, cache)
        self._loaded = self.ranks.each(lambda: memory is not None and self._load(memory))[0]
        if not self._loaded:
            self._extract_and_fit(sides, memory)
            with self.ranks.together():
                if memory is not None:
                    self._store(memory, memory.identity)
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

    def _extract_and_fit(self, sides: Sides, memory: Memory | None) -> None:
        """As `MemorizationDetector.fit`, with the features kept in all poses that a later fit needs."""
        detector, ranks = self.detector, self.ranks
        kind = ranks.each(lambda: detector.fitter.kind(sides.held_out or None))[0]
        self._poses = detector.poses if kind != "held_out" else detector.poses[:1]
        train, planted = self._training(sides, memory)
        held_out, novel = None, "held-out features" if self.progress else None
        if sides.held_out and (kind == "held_out" or detector.contrast):
            held_out = Rounds(ranks, detector, sides.keys, label=novel).features(sides.held_out)
        with ranks.together():
            if train is not None:
                detector.fit_features(train, held_out, planted, self.progress)
        self._train, self._held_out = train, held_out

    def _training(self, sides: Sides, memory: Memory | None) -> tuple[Features | None, Reservoir]:
        """Training features, and a sample of the images; what a state in the cache holds is not encoded again."""
        planted = Reservoir(PLANTED[self.detector.dims], self.detector.seed)
        usable = memory if len(self._poses) == 1 else None  # a state has the first pose alone
        places = self.ranks.each(lambda: None if usable is None else usable.fresh())[0]
        label = "training features" if self.progress else None
        rounds = Rounds(self.ranks, self.detector, sides.keys, self._poses, True, label=label, tell=self.tell)
        if places is None:
            rounds.keep = planted
            return rounds.features(sides.train), planted
        fresh = [source.at(some) for source, some in zip(sides.train, places, strict=True) if some]
        new = rounds.features(fresh) if fresh else None
        train: Features | None = None
        with self.ranks.together():
            if usable is not None:
                self.reused = usable.reused
                train, planted = usable.whole(new)
        return train, planted

    def _add(self, sides: Sides) -> int:
        """Encode the training images that are not known, and fit again on all; how many these are."""
        label = "training features" if self.progress else None
        rounds = Rounds(self.ranks, self.detector, sides.keys, self._poses, True, known=self._known, label=label)
        new = rounds.features(sides.train)
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
        self.detector.fit_features(train, self._held_out, planted, self.progress)
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

    def _memory(self, sides: Sides, cache: str | Path) -> Memory | None:
        """What the cache remembers, on rank zero; None on others, and where nothing can be cached."""
        sources = [*sides.train, *sides.held_out]
        if any(self.ranks.each(lambda: any(isinstance(source.data, Iterator) for source in sources))):
            self.not_loaded = "the data can be read but once"
        elif not all(read_alike(self.ranks, sources, sides.keys)):
            self.not_loaded = "each rank reads data of its own"
        else:
            detector, full, first = self.detector, self.full_check, self.ranks.first
            return self.ranks.each_own(lambda: Memory(detector, cache, sides, full) if first else None)
        return None

    def _store(self, memory: Memory, identity: Identity) -> None:
        try:
            self.place = self.detector.save(memory.cache, identity)
        except Exception as error:
            if not self.lenient:
                raise
            self.not_stored = str(error) if isinstance(error, MemorizationError) else type(error).__name__

    def _load(self, memory: Memory) -> bool:
        found = memory.same()
        if found is None and not Path(memory.cache).is_file():
            return False
        try:
            if found is None:  # says what differs
                self.detector.load(memory.cache, memory.identity.data)
                self.place = Path(memory.cache)
            else:
                path, identity = found
                self.detector.load(path, identity.data)
                self.place = path
                if identity.outline != memory.outline:  # the next start need not read every pixel
                    self._store(memory, replace(identity, outline=memory.outline))
        except Exception as error:
            self.place = None
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
    return source.sample(SAMPLED, look, **sides.keys)[1]


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
