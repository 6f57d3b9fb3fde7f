"""Features of training and held-out images → the state that a detector keeps: index, null, near-duplicates."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_callback.detection import leaks, nulls
from mi_callback.detection.matching import MATCHING, Matcher
from mi_callback.detection.people import warn_of_ids
from mi_callback.detection.sides import difference_of_sides
from mi_callback.encoders.descriptor import descriptor_fingerprint
from mi_callback.errors import CalibrationError, DataError
from mi_callback.fingerprints import fingerprint, fingerprint_of_code
from mi_callback.images.config import IMAGES
from mi_callback.images.reservoir import Reservoir
from mi_callback.registration.config import registration_config
from mi_callback.retrieval.config import SEARCH
from mi_callback.retrieval.engines import Backend
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.recall import measured_recall
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.whitening import WhiteningKind
from mi_callback.state import FittedState
from mi_callback.statistics.null import Null, NullKind
from mi_callback.statistics.subjects import thin
from mi_callback.statistics.tails.tail import Tail, fit_tail
from mi_callback.version import __version__

DECIDING = ("images", "encoders", "retrieval", "registration", "detection", "statistics", "fitting.py")
"""Rooms and files whose code decides what the same images give."""


def method(dims: int) -> dict[str, str]:
    """Version, constants, code and descriptor that the same images are looked at with: a state of others is refused.

    Args:
        dims: Spatial dimensions: 2 for images, 3 for volumes.
    """
    return {
        "version": __version__,
        "constants": fingerprint(*IMAGES, SEARCH, MATCHING[dims], registration_config(dims)),
        "code": fingerprint_of_code(*DECIDING),
        "descriptor": descriptor_fingerprint(),
    }


def checked_tail(null: Null, seed: int) -> Tail:
    """The extrapolated tail of a null, with a warning where it does not fit."""
    tail = fit_tail(null, seed)
    if not tail.reliable:
        warnings.warn(
            f"the generalized-Pareto tail does not fit the null (p = {tail.fit_p_value:.3g}): rank by p_value and mi, "
            "not by p_tail.",
            stacklevel=4,
        )
    return tail


@dataclass(frozen=True)
class Fitter:
    """How a training set is made searchable, and a null is made for it.

    Attributes:
        match: How images are looked up.
        null: Which null is made; `auto` takes held-out images where there are any.
        whitening: How features are whitened.
        backend: Engine of the indexes.
        device: Where whitening and index lie.
        null_size: Images the null is made of at most; None for all.
        seed: Of folds, halves and draws.
    """

    match: Matcher
    null: NullKind
    whitening: WhiteningKind
    backend: Backend | str
    device: torch.device
    null_size: int | None
    seed: int

    def kind(self, held_out: Any) -> NullKind:
        """The null that is made with these held-out images, or with none.

        Raises:
            CalibrationError: If one of held-out images was asked for, and there are none.
        """
        if self.null is NullKind.HELD_OUT and held_out is None:
            raise CalibrationError(
                "needed held-out images for null='held_out'; none came. Pass held_out=…, or use null='cross_fit'."
            )
        if self.null is NullKind.AUTO:
            return NullKind.CROSS_FIT if held_out is None else NullKind.HELD_OUT
        return self.null

    def reference(self, train: Features) -> Reference:
        """Whitening and index of training features."""
        return Reference.fit(train, self.whitening, self.backend, self.device)

    def fit(
        self, train: Features, held_out: Features | None, planted: Reservoir | None, progress: bool = False
    ) -> FittedState:
        """Whitening, index, null and what counts as a near-duplicate.

        Args:
            train: With their views, and in all poses where the null is made from them.
            held_out: Of other people, in all poses; who was trained on too is left out.
            planted: Training images kept for the power self-test.
            progress: Show progress bars.

        Raises:
            DataError: For fewer than two training images, or held-out ones that were all trained on.
            CalibrationError: If the null is undefined for these data.
        """
        if len(train) < 2:
            raise DataError(f"needed at least 2 training images; {len(train)} came.")
        once = train.once
        warn_of_ids(once, "training")
        if held_out is not None:
            warn_of_ids(held_out, "held-out")
            held_out = leaks.without_leaks(train, held_out)
        reference = self.reference(train)
        null = self._calibrate(train, once, held_out, reference, progress)
        novel = held_out if null.kind is NullKind.HELD_OUT else None
        duplicate = nulls.duplicate_similarity(
            once, novel, reference, self.reference, self.match.aggregation, self.null_size, self.seed
        )
        difference = None if novel is None else difference_of_sides(once, novel.once, self.seed)
        if difference is not None:
            warnings.warn(f"{difference}. Until then the result is inconclusive.", stacklevel=4)
        looked_up = self.match.candidates * MATCHING[train.dims].looked_up
        recall = measured_recall(reference, train if held_out is None else held_out, looked_up, self.seed)
        kept = None if held_out is None else held_out.in_pose(0)
        return FittedState(train.in_pose(0), kept, reference, null, duplicate, planted, difference, recall)

    def recalibrate(
        self, state: FittedState, seen: Callable[[Tensor], Features], most: int, progress: bool = False
    ) -> Null:
        """The null of the same kind, of real images that are looked up otherwise than they are.

        Args:
            state: Whose null that is.
            seen: Rows of the held-out images, or of the training images of a cross-fitted null → these, as queries.
            most: Images that are looked up, at most.
            progress: Show progress bars.
        """
        if state.null.kind is NullKind.CROSS_FIT:
            return nulls.cross_fit_null(state.train, self.reference, self.match, most, self.seed, progress, seen)
        assert state.held_out is not None
        rows = thin(state.held_out.subjects, len(state.held_out), most, self.seed)
        return nulls.held_out_null(seen(rows), state.train, state.reference, self.match, None, self.seed, progress)

    def _calibrate(
        self, train: Features, once: Features, held_out: Features | None, reference: Reference, progress: bool
    ) -> Null:
        """Of training images, with what is there several times and without, as the reference counts rows."""
        size, seed = self.null_size, self.seed
        match self.kind(held_out):
            case NullKind.HELD_OUT:
                assert held_out is not None
                return nulls.held_out_null(held_out, train, reference, self.match, size, seed, progress)
            case NullKind.CROSS_FIT:
                return nulls.cross_fit_null(once, self.reference, self.match, size, seed, progress)
            case _:
                return nulls.train_halves_null(once, reference, self.match, self.whitening, size, seed, progress)
