"""What samples are judged against: real images, made as sharp and as noisy as the samples are."""

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mi_callback.fitting import Fitter, checked_tail
from mi_callback.images.preprocessing import check_images
from mi_callback.images.quality.degradation import Degradation, Quality
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, as_images, make_thumbnails
from mi_callback.retrieval.features import Features
from mi_callback.state import FittedState
from mi_callback.statistics.null import Null, NullKind
from mi_callback.statistics.tails.tail import Tail
from mi_callback.types import Images, Thumbnails

COMPARED = 200
"""Images of either side whose sharpness and noise are looked at, at most."""

FEWEST = 8
"""Samples whose quality can be told; fewer are judged against real images as they are."""

RECALIBRATED = {2: 400, 3: 100}
"""Real images that are looked up again at the quality of samples, at most, by the number of dimensions."""

EACH, LEAST = 4, 100
"""People count, not images: of each person so many are looked up again, and in all so many at least.

Of 104 slices of 52 novel people (IXI), blurred by .7 px, .096 are flagged at .05 against 50 people with eight slices
each. Against four of the eight, drawn 200 times, it is .094 with a standard deviation of .006, against two .095 with
.019; other 50 people would move it by .03.
"""


def _nothing() -> None: ...


ONCE: ContextVar[Callable[[], None]] = ContextVar("ONCE", default=_nothing)
"""Called before what is done once for samples of a new quality: the null, and power, are measured again. Whoever keeps
time for samples sets it: half of that work is worth nothing."""

Encode = Callable[..., Features]
"""Images, and whose they are → features in the poses of a query."""


@dataclass(frozen=True)
class Calibration:
    """What samples of one quality are judged against.

    Attributes:
        null: How similar real images of that quality are.
        tail: Its extrapolated tail; None where none was asked for.
        degradation: What gave the real images that quality; None where they have it as they are.
    """

    null: Null
    tail: Tail | None = None
    degradation: Degradation | None = None

    @property
    def quality(self) -> str | None:
        """What was done to real images, in words; None for nothing."""
        return None if self.degradation is None else str(self.degradation)

    def alter(self, images: Images, seed: int) -> Images:
        """Images, at the size of thumbnails, with the quality of the samples; as they are where that is theirs."""
        if self.degradation is None:
            return images
        dims = images.ndim - 2
        grey = make_thumbnails(check_images(images, images.shape[1], dims), THUMBNAIL_SIDE[dims])
        return as_images(self.degradation.apply(grey, seed))


class Calibrator:
    """Calibrates for samples of any quality; calibrations are kept, for samples of a like quality.

    Args:
        state: Training set and null, of real images as they are.
        fitter: How the null was made.
        encode: Images → features.
        tail: Whether tails are extrapolated.
    """

    def __init__(self, state: FittedState, fitter: Fitter, encode: Encode, tail: bool) -> None:
        self.state, self.fitter, self.encode, self.tail = state, fitter, encode, tail
        self.native = self.used = self._calibration(state.null, None)
        self.known = [self.native]

    def like(self, samples: Thumbnails, progress: bool = False) -> Calibration:
        """The calibration for samples of this quality, with progress bars where it is made now.

        Where features decide, unaligned, where the paper's null is used, or for fewer than `FEWEST` samples, that is
        the one of real images as they are.
        """
        able = self.fitter.match.verify and self.state.null.kind is not NullKind.TRAIN_HALVES
        if not able or len(samples) < FEWEST:
            return self._use(self.native)
        real, start = self._compared
        found = Degradation.between(real, _some(samples, self.fitter.seed), start=start)
        for known in self.known:
            if not found.differs(known.degradation or Degradation.none()):
                return self._use(known)
        ONCE.get()()
        self.known.append(self._calibration(self._null(found, progress), found))
        return self._use(self.known[-1])

    def _use(self, calibration: Calibration) -> Calibration:
        if calibration is not self.used:
            ONCE.get()()
            self.used = calibration
        return calibration

    @cached_property
    def _compared(self) -> tuple[Thumbnails, Quality]:
        """Some of the images of which the null is made, and how sharp and noisy they are."""
        real = _some(self._real.thumbnails, self.fitter.seed)
        return real, Quality.told(real)

    @property
    def _real(self) -> Features:
        """The images of which the null is made."""
        state = self.state
        if state.null.kind is NullKind.HELD_OUT:
            assert state.held_out is not None
            return state.held_out
        return state.train

    def _null(self, degradation: Degradation, progress: bool) -> Null:
        real, fitter = self._real, self.fitter
        enough = max(LEAST, EACH * self.state.null.n_subjects)
        most = min(RECALIBRATED[real.dims], fitter.null_size or len(real), enough)

        def degraded(rows: Tensor) -> Features:
            chosen = real.where(rows)
            return self.encode(as_images(degradation.apply(chosen.thumbnails, fitter.seed)), subjects=chosen.subjects)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say of these people was said at fit
            return fitter.recalibrate(self.state, degraded, most, progress)

    def _calibration(self, null: Null, degradation: Degradation | None) -> Calibration:
        return Calibration(null, checked_tail(null, self.fitter.seed) if self.tail else None, degradation)


def _some(thumbnails: Thumbnails, seed: int) -> Thumbnails:
    order = torch.randperm(len(thumbnails), generator=torch.Generator().manual_seed(seed))
    return thumbnails[order[:COMPARED]]
