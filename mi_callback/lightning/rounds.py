"""Every rank encodes its share; rank zero has all features, in the order in which one process would have made them.

In each round every rank reads and encodes one batch, which are appended in the order of ranks. Where the ranks read
the same data, they take turns with the batches: each batch is what it would be in one process, and so are its features.
Where each reads data of its own, a stream for example, each reads them whole, and an image that another rank has shown
is left out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError
from mi_callback.images.batches import Batch, read_batches
from mi_callback.images.patterns import without_patterns
from mi_callback.images.preprocessing import check_batch, check_images
from mi_callback.images.reservoir import Reservoir
from mi_callback.lightning.data.loaders import WHOLE
from mi_callback.lightning.data.sides import Source
from mi_callback.lightning.ranks import Ranks, guarded
from mi_callback.retrieval.features import Features, GrowingFeatures, digest

KNOWN = -1
"""In the place of a rank: what was encoded before."""

MEASURED = 3
"""Rounds after which it is told how long all will take; the first one, in which libraries start, does not count."""


class _Shown(NamedTuple):
    """What a rank shows of its batch: how many images, and their digests where repetitions are left out."""

    images: int
    digests: Sequence[bytes] | None


@dataclass
class Rounds:
    """Encodes images of sources, all ranks together.

    Attributes:
        ranks: Of the run.
        detector: Encodes; one on each rank.
        keys: `subject_key` and `image_key`.
        poses: In which images are encoded; all of the detector when None.
        views: Whether they are a training set.
        keep: Takes a sample of the images; on rank zero it holds them in the end.
        known: Digests of images that are left out, and all repetitions with them; None where none are.
        label: Of the progress bar, and of what is told; None for no bar.
        tell: Takes the number of images and the seconds that all of them will take, once that can be told.
    """

    ranks: Ranks
    detector: MemorizationDetector
    keys: dict[str, Any]
    poses: Sequence[str] | None = None
    views: bool = False
    keep: Reservoir | None = None
    known: set[bytes] | None = None
    label: str | None = None
    tell: Callable[[int, float], None] | None = None

    def __post_init__(self) -> None:
        self._grown, self._done = GrowingFeatures(), 0
        self._shown_by = dict.fromkeys(self.known or (), KNOWN)
        self._failed: Exception | None = None

    def features(self, sources: Sequence[Source]) -> Features | None:
        """Of all images on rank zero; None on other ranks, and where no image is left.

        Raises:
            DataError: For broken images, or none, on every rank.
        """
        clock = _Clock(self.tell, sum(source.count for source in sources))
        for source, alike in zip(sources, read_alike(self.ranks, sources, self.keys), strict=True):
            batches = self._read(source, self.ranks.share if alike else WHOLE)
            while shown := self._round(batches, alike):
                clock.tick(shown)
        self._fill()
        if not self._done:
            return None if self.known is not None else self.detector.features([])
        return self._grown.features() if self.ranks.first else None

    def _read(self, source: Source, share: tuple[int, int]) -> Iterator[Batch]:
        size, label = self.detector.batch_size, self.label if self.ranks.first else None
        return read_batches(source.batches(size, share), size, **self.keys, progress=label)

    def _round(self, batches: Iterator[Batch], alike: bool) -> int:
        """One batch of every rank: how many images they showed; 0 when all are through."""
        read: list[Batch | None] = []
        problem = self._failed or guarded(lambda: read.append(next(batches, None)))
        batch = read[0] if read else None
        mine: list[_Shown | None] = []
        problem = problem or guarded(lambda: mine.append(self._show(batch, alike)))
        shown = self.ranks.exchange(mine[0] if mine else None, problem)
        if all(one is None for one in shown):
            return 0
        places = [self._places(rank, one) for rank, one in enumerate(shown)]
        self._encode_and_gather(batch, places)
        return sum(one.images for one in shown if one is not None)

    def _show(self, batch: Batch | None, alike: bool) -> _Shown | None:
        if batch is None:
            return None
        told = not alike or self.known is not None
        return _Shown(len(batch.images), digests_of(self.detector, batch) if told else None)

    def _places(self, rank: int, shown: _Shown | None) -> list[int]:
        """Which images of a rank's batch count; every rank decides this alike."""
        if shown is None or shown.digests is None:
            return list(range(shown.images)) if shown else []
        chosen = []
        for place, one in enumerate(shown.digests):
            first = one not in self._shown_by
            # What a rank repeats itself stays, as in one process, unless new images are looked for.
            if self._shown_by.setdefault(one, rank) == rank and (first or self.known is None):
                chosen.append(place)
        return chosen

    def _encode_and_gather(self, batch: Batch | None, places: list[list[int]]) -> None:
        rank, counts = self.ranks.rank, [len(one) for one in places]
        found: list[tuple[Features, Any]] = []
        if batch is not None and places[rank]:
            some, first = _at(batch, places[rank]), self._done + sum(counts[:rank])
            self._failed = guarded(lambda: found.append(self._encode(some, first)))
        if self.keep is not None:
            self._offer(self.keep, batch if found else None, counts, places[rank])
        for part in self.ranks.gather(found):
            for features, subjects in part:
                self._grown.append(features, subjects)
        self._done += sum(counts)

    def _encode(self, batch: Batch, first: int) -> tuple[Features, Any]:
        check_batch(batch.images, self.detector.encoder.channels, self.detector.dims, first)
        features = self.detector.features([batch.images], self.poses, views=self.views)
        return replace(features, subjects=None, sources=batch.sources), batch.subjects

    def _offer(self, keep: Reservoir, batch: Batch | None, counts: list[int], places: list[int]) -> None:
        for rank, count in enumerate(counts):
            if rank == self.ranks.rank and batch is not None:
                images = _at(batch, places).images
                keep.offer(check_images(images, self.detector.encoder.channels, self.detector.dims))
            else:
                keep.pass_over(count)

    def _fill(self) -> None:
        if self.keep is not None and self.ranks.size > 1:
            for held in self.ranks.gather(self.keep.held()):
                self.keep.fill(held)


class _Clock:
    """Tells once how long all rounds will take."""

    def __init__(self, tell: Callable[[int, float], None] | None, count: int) -> None:
        self.tell, self.count = tell, count
        self.rounds, self.done, self.start, self.before = 0, 0, time.monotonic(), 0

    def tick(self, images: int) -> None:
        """A round ended."""
        self.rounds, self.done = self.rounds + 1, self.done + images
        if self.rounds == 1:
            self.start, self.before = time.monotonic(), self.done
        if self.rounds == MEASURED and self.tell is not None and self.count > self.done:
            each = (time.monotonic() - self.start) / max(1, self.done - self.before)
            self.tell(self.count, each * self.count)


def read_alike(ranks: Ranks, sources: Sequence[Source], keys: dict[str, Any]) -> list[bool]:
    """Of each source, whether all ranks read the same, by its size, its rows and its first image; a stream never is.

    Raises:
        DataError: If ranks have different numbers of sources.
    """
    if ranks.size == 1:
        return [True] * len(sources)
    each = ranks.each(lambda: [_signature(source, keys) for source in sources])
    if len({len(one) for one in each}) > 1:
        raise DataError(
            f"needed equally many loaders on every rank; they have {[len(one) for one in each]}. Pass the images: "
            "MemorizationCallback(train=…, held_out=…)."
        )
    return [one[0] is not None and len(set(one)) == 1 for one in zip(*each, strict=True)]


def digests_of(detector: MemorizationDetector, batch: Batch) -> list[bytes]:
    """A hash of each image of a batch, as `Features.digests` has it."""
    images = check_images(batch.images, detector.encoder.channels, detector.dims)
    return [digest(one) for one in without_patterns(images.cpu())[1]]


def _signature(source: Source, keys: dict[str, Any]) -> str | None:
    """What tells the data of one rank from those of another; None where they have no positions."""
    if source.stream:
        return None
    first = source.first(**keys)
    told: list[Any] = [source.name, source.size, blake2b(repr(source.rows).encode()).hexdigest()]
    if first is not None:
        told += [first.subjects, first.sources, tuple(first.images.shape)]
        told += [] if source.random(keys["image_key"]) else first.digests()
    return repr(told)


def _at(batch: Batch, places: list[int]) -> Batch:
    """Some images of a batch; the same one where that is all."""
    if len(places) == len(batch.images):
        return batch
    subjects = None if batch.subjects is None else [batch.subjects[i] for i in places]
    sources = None if batch.sources is None else [batch.sources[i] for i in places]
    return replace(batch, images=batch.images[places], subjects=subjects, sources=sources)
