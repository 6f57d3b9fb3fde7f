"""The detector of a run: made and fitted at the start of `fit`, and kept up with what is trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_callback.cache import power_beside
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import MemorizationError
from mi_callback.lightning.data.sides import Sides, Source, sides_of, training_sources
from mi_callback.lightning.keeping_up import TrainingReference
from mi_callback.lightning.loggers import sends
from mi_callback.lightning.loggers.report import in_words
from mi_callback.lightning.messages import say, say_cost, say_fitted, say_randomness, shows_progress, warn
from mi_callback.lightning.options import build_detector
from mi_callback.lightning.randomness import rng_kept
from mi_callback.lightning.ranks import Ranks
from mi_callback.statistics.null import NullKind
from mi_callback.types import SubjectKey


class Preparation:
    """Fits a detector to what the Trainer trains on.

    Args:
        detector: The user's, or None to make one.
        options: To make one with.
        train, held_out, control: The user's own images, or None.
        subject_key, image_key: Where batches hold ids and images.
        cache: File for the fitted state, or None.
        power: Training images of the power self-test; 0 for none.
        lenient: Whether what fails while training is said and training goes on.
        full_check: Whether every image is read to see whether a cache is of the same ones.

    Attributes:
        detector: Fitted or not; None before it was made.
        caveats: Why the samples may copy what they are not compared with.
        ready: Whether rank zero, which scores, has a fitted detector.
        seconds_each: How long a planted copy took to look up, now or when the cache was written, and so about what a
            sample will take; None without any.
    """

    def __init__(
        self,
        detector: MemorizationDetector | None,
        options: Mapping[str, Any],
        train: Any,
        held_out: Any,
        control: Any,
        subject_key: SubjectKey,
        image_key: SubjectKey,
        cache: str | Path | None,
        power: int,
        lenient: bool,
        full_check: bool = False,
    ) -> None:
        self.detector, self.options = detector, options
        self.train, self.held_out, self.control = train, held_out, control
        self.subject_key, self.image_key = subject_key, image_key
        self.cache, self.power, self.lenient, self.full_check = cache, power, lenient, full_check
        self.caveats: list[str] = []
        self.seconds_each: float | None = None
        self.ready = False
        self._reference: TrainingReference | None = None
        self._doubted: set[str] = set()

    @property
    def fitted(self) -> bool:
        """Whether there is a detector here that can score."""
        return self.detector is not None and self.detector.fitted

    def fit(self, trainer: Any, module: Any, n_samples: int) -> None:
        """Fit the detector, with the features that all ranks make, or use the one that was fitted by the user.

        Raises:
            MemorizationError: As `MemorizationDetector.fit`, on every rank.
        """
        ranks = Ranks.of(trainer)
        if ranks.from_zero(self.fitted and self._reference is None):
            with ranks.together():
                if ranks.first:
                    self._use_fitted(shows_progress(trainer))
            self.ready = True
            return
        [sides, detector] = ranks.each_own(lambda: self._made(trainer, module))
        shown = shows_progress(trainer)
        self._reference = TrainingReference(detector, ranks, shown, self.lenient, say_cost, self.full_check)
        self.caveats = []
        with rng_kept():
            stored = self._reference.fit(sides, self.cache)
            with ranks.together():
                if ranks.first:
                    self._finish(detector, stored, n_samples, shown)
        self.ready = True

    def _made(self, trainer: Any, module: Any) -> tuple[Sides, MemorizationDetector]:
        """Both sides, told, and the detector, not fitted."""
        sides = self._sides(trainer)
        with rng_kept():  # an encoder may initialise weights at random before it loads others
            if self.detector is None:
                self.detector = build_detector(self.options, sides, module.device)
            say(f"{sides}.")
            sides.check_ends(self.detector.batch_size)
        return sides, self.detector

    def _finish(self, detector: MemorizationDetector, stored: bool, n_samples: int, shown: bool) -> None:
        self._fit_control(detector, shown)
        assert self._reference is not None
        if self.power:
            self._measure_power(detector, shown, self._reference.place)
        say_randomness(self._reference, self.cache)
        say_fitted(detector, stored, n_samples)

    def catch_up(self, trainer: Any, look: int) -> None:
        """Search what is trained on now, too; where that cannot be, say so, and never say clean again."""
        if self._reference is None or self.train is not None:
            return
        ranks = Ranks.of(trainer)
        try:
            with rng_kept():
                sources = ranks.each_own(lambda: training_sources(trainer))
                news = self._reference.catch_up(Sides(sources, (), (), self.subject_key, self.image_key), look)
                with ranks.together():
                    if news and self.power and ranks.first and self.detector is not None:
                        self.detector.power(self.power, progress=shows_progress(trainer))
        except Exception as error:
            if not isinstance(error, MemorizationError) and not self.lenient:
                raise
            if ranks.first:
                self._doubt(trainer, error)
            return
        if news:
            say(f"the training data changed: {news}.")

    def _doubt(self, trainer: Any, error: Exception) -> None:
        """Say once that training data could not be followed; what goes into scores may leave, and names no file."""
        if (full := f"{type(error).__name__}: {error}") in self._doubted:
            return
        self._doubted.add(full)
        caveat = _unread(in_words(error, True, _kept_here(trainer, self, error)))
        if caveat not in self.caveats:
            self.caveats.append(caveat)
            said = caveat if sends(trainer.loggers) else _unread(full)
            warn(f"{said}. Until then nothing reads as clean.")

    def _fit_control(self, detector: MemorizationDetector, shown: bool) -> None:
        if self.control is None:
            return
        batches = Source("control=", self.control, shared=False).batches(detector.batch_size)
        detector.fit_control(batches, subject_key=self.subject_key, image_key=self.image_key, progress=shown)
        assert detector.control is not None
        say(f"the control has {len(detector.control.state.train)} images.")

    def _use_fitted(self, shown: bool) -> None:
        assert self.detector is not None
        say(f"using the fitted detector ({len(self.detector.state.train)} training images).")
        with rng_kept():
            self._fit_control(self.detector, shown)
        if self.power and self.detector.measured_power is None and self.detector.state.planted is not None:
            with rng_kept():
                self._measure_power(self.detector, shown)

    def _measure_power(self, detector: MemorizationDetector, shown: bool, state: Path | None = None) -> None:
        """Beside a state in the cache the result is kept."""
        cache = None if state is None else power_beside(state)
        power = detector.power(self.power, cache=cache, progress=shown)
        self.seconds_each = (power.seconds or 0.0) / max(1, power.n * len(power.flagged))

    def _sides(self, trainer: Any) -> Sides:
        null = NullKind(self.detector.null_choice if self.detector else self.options.get("null", "auto"))
        contrast = self.detector.contrast if self.detector else self.options.get("contrast", False)
        wanted = contrast or null in (NullKind.AUTO, NullKind.HELD_OUT)
        return sides_of(trainer, self.train, self.held_out, wanted, self.subject_key, self.image_key)


def _unread(why: str) -> str:
    return f"the training data could not be followed ({why}): pass them, MemorizationCallback(train=…)"


def _kept_here(trainer: Any, preparation: Preparation, error: Exception) -> Path | None:
    """Where the report of the same callback keeps an error in full; None where it does not."""
    owner = next((one for one in trainer.callbacks if getattr(one, "_prepared", None) is preparation), None)
    try:
        return None if owner is None else owner._recording._report.note_error(trainer.current_epoch, error)
    except Exception:  # that a folder is full is no reason not to say what failed
        return None
