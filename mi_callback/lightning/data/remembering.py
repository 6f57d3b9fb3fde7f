"""What a cache remembers of the data at hand: all of them, some of the training images, or nothing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mi_callback.cache import Identity
from mi_callback.detection.planting import PLANTED
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import MemorizationError
from mi_callback.images.batches import read_batches
from mi_callback.images.preprocessing import check_images
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.subjects.ids import settle
from mi_callback.lightning.data.outlines import outline_of
from mi_callback.lightning.data.sides import Sides, Source
from mi_callback.retrieval.features import Features, concatenate, extended
from mi_callback.state import FittedState, fingerprint_of_rows

CHECKED = 256
"""Images of each loader that are read and compared where the outline of the data is as it was; others each time."""


@dataclass
class _Noted:
    """What was noted of the images of a side while they were read.

    Attributes:
        digests: Of the images of each source.
        subjects, files: None where there are none.
    """

    digests: list[list[bytes]] = field(default_factory=list)
    subjects: list[str | None] | None = field(default_factory=list)
    files: list[str] | None = field(default_factory=list)

    def all(self) -> list[bytes]:
        """Digests of all images."""
        return [one for some in self.digests for one in some]


class Memory:
    """States in a cache that may be of the data at hand, in one process.

    Args:
        detector: Its settings count.
        cache: A file, or a folder of states.
        sides: The data, which can be read several times.
        full: Whether every image is read to see whether it is the same.

    Attributes:
        reused: Training images that are not encoded again, after `fresh`.
    """

    def __init__(self, detector: MemorizationDetector, cache: str | Path, sides: Sides, full: bool) -> None:
        self.detector, self.cache, self.sides, self.full = detector, cache, sides, full
        self.outline = outline_of(sides)
        self.kept = detector.states_kept(cache)
        self.reused = 0
        self._planted = Reservoir(PLANTED[detector.dims], detector.seed)
        self._rows, self._met = dict[bytes, int](), 0
        self._old: Features | None = None

    def same(self) -> tuple[Path, Identity] | None:
        """The state of exactly these data, as far as their outline and a sample tell; else by every pixel."""
        if not self.full and self.outline is not None:
            for path, identity in self.kept:
                if identity.outline == self.outline and self._sampled_alike(identity):
                    return path, identity
        if not self.kept:
            return None
        return next(((path, found) for path, found in self.kept if found.data == self.identity.data), None)

    @cached_property
    def identity(self) -> Identity:
        """Of these data; every image is read for it."""
        train, held_out = (side.all() for side in self._read)
        return Identity(fingerprint_of_rows(train, held_out), _packed(train), _packed(held_out), self.outline)

    def fresh(self) -> list[list[int]] | None:
        """Places in each training source of the images that have to be encoded, for `whole`; None for all of them."""
        noted = self._read[0].digests if self.kept else []
        if [source.count for source in self.sides.train] != [len(some) for some in noted]:
            return None
        wanted = set(self._read[0].all())
        path, identity = max(self.kept, key=lambda one: len(wanted & set(_unpacked(one[1].train))))
        known = _unpacked(identity.train)
        if not wanted & set(known):
            return None
        try:
            self._old = FittedState.load_train(path, self.detector.settings(), identity.data)
        except MemorizationError:  # damaged, or gone
            return None
        self._rows, self._met = {digest: row for row, digest in enumerate(known)}, len(known)
        self.reused = sum(one in self._rows for one in self._read[0].all())
        return [self._new(some) for some in noted]

    def whole(self, new: Features | None) -> tuple[Features, Reservoir]:
        """All training images, from those that are fresh, and a sample of them for the power self-test."""
        assert self._old is not None
        features, noted = self._old if new is None else concatenate(self._old, new), self._read[0]
        found = features.where(torch.tensor([self._rows[one] for one in noted.all()]))
        channels, dims = self.detector.encoder.channels, self.detector.dims
        images = [check_images(image[None], channels, dims)[0] for image in self._planted.images]
        subjects = settle(noted.subjects, found.thumbnails)
        return replace(found, subjects=subjects, sources=noted.files), Reservoir.of(self._planted.rows, images)

    def _new(self, digests: list[bytes]) -> list[int]:
        """Places of images that were not met yet, whose rows follow those that are known."""
        places = []
        for place, one in enumerate(digests):
            if one not in self._rows:
                self._rows[one] = self._met
                self._met += 1
                places.append(place)
        return places

    @cached_property
    def _read(self) -> tuple[_Noted, _Noted]:
        """Both sides, read once."""
        return self._note(self.sides.train, self._planted), self._note(self.sides.held_out)

    def _note(self, sources: Sequence[Source], keep: Reservoir | None = None) -> _Noted:
        noted, size = _Noted(), self.detector.batch_size
        for source in sources:
            noted.digests.append([])
            for batch in read_batches(source.batches(size), size, **self.sides.keys, progress=None):
                noted.digests[-1] += batch.digests()
                noted.subjects = extended(noted.subjects, batch.subjects)
                noted.files = extended(noted.files, batch.sources)
                if keep is not None:
                    keep.offer(torch.as_tensor(batch.images))
        return noted

    def _sampled_alike(self, identity: Identity) -> bool:
        seed = int.from_bytes(os.urandom(4), "big")
        for sources, digests in ((self.sides.train, identity.train), (self.sides.held_out, identity.held_out)):
            known, begin = _unpacked(digests), 0
            if len(known) != sum(source.count for source in sources):
                return False
            for source in sources:
                places, batches = source.sample(CHECKED, seed, **self.sides.keys)
                found = [one for batch in batches for one in batch.digests()]
                if found != [known[begin + place] for place in places]:
                    return False
                begin += source.count
        return True


def _packed(digests: list[bytes]) -> Tensor:
    return torch.from_numpy(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16).copy())


def _unpacked(digests: Tensor) -> list[bytes]:
    whole = digests.numpy().tobytes()
    return [whole[i : i + 16] for i in range(0, len(whole), 16)]
