"""When to fit, when to score, on which rank and with which random numbers. No mathematics."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mi_callback.arguments import checked_cache, integer, positive_integer, seed_number, switch
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError, MemorizationError, OptionError, StateError, choice
from mi_callback.lightning.keeping_up import TrainingReference
from mi_callback.lightning.loggers import PREFIX, log_media, logged_step
from mi_callback.lightning.messages import say, say_fitted, say_randomness, say_scores, say_what_ranks_miss, warn
from mi_callback.lightning.options import (
    build_detector,
    checked_detector,
    checked_key,
    checked_sampler,
)
from mi_callback.lightning.ranks import check_strategy, guarded, raise_everywhere
from mi_callback.lightning.sampling import FoundSampler, draw, find_sampler, rng_kept
from mi_callback.lightning.sides import Sides, Source, fetch_validation_loaders, sides_of, training_sources
from mi_callback.reporting import closest_pairs
from mi_callback.scores import Scores
from mi_callback.statistics.flagging import NullSummary
from mi_callback.statistics.null import NullKind
from mi_callback.types import SubjectKey


class Record(NamedTuple):
    """A scored validation."""

    epoch: int
    step: int
    scores: Scores


class MemorizationCallback(Callback):
    """Scores the generator's samples against its training set at every validation.

    At the start of `fit` all rows that the training loaders can draw are encoded, in order, and a null is calibrated on
    the validation data (or, without any, on training subjects against each other); a line says what was taken for what.
    After each validation epoch `n_samples` images are drawn and scored. Training data that change on the way, because
    loaders are reloaded or a data set is exchanged, are noticed and searched too; where they cannot be, nothing reads
    as clean. Training is not disturbed: weights with and without the callback are bit-identical.

    Logged scalars, usable by EarlyStopping and ModelCheckpoint, all under `memorization/`: `mi_mean`, `mi_median`,
    `mi_p95`, `mi_max`, `oni_mean`, `similarity_mean`, `verified_max` (with verification), and, where the null has
    enough subjects for `alpha`, `flagged`, `flagged_expected`, `rate`, `rate_lower`, `rate_upper`,
    `matched_subjects`. Where it has not, these are absent and the result is said to be inconclusive: a zero would
    read as clean. W&B and TensorBoard also get `memorization_media/mi` (histogram) and `memorization_media/flagged`
    (table). Between scored validations `trainer.callback_metrics` keeps the last values.

    With `WeightAveraging` or another EMA callback, before or after this one, the averaged weights are sampled, as they
    are in place while validation batches are run.

    Args:
        n_samples: Images drawn per scored validation.
        every_n_validations: Cadence, counted in validations; the first one is always scored.
        sampler: How to draw images: a callable `(module, n)` or `(n)`, a dotted name, or None to find it (see
            `mi_callback.lightning.sampling.find_sampler`).
        sample_batch_size: Images drawn per call of the sampler.
        train: Training images, where they are not what the Trainer trains on (a Dataset without augmentation, say).
        held_out: Real images of subjects that are not trained on; the Trainer's validation data when None.
        control: Real images of people who were certainly not trained on, about as many as of those who were: samples
            that resemble both alike do not copy. Encoded at the start of `fit`, not cached; doubles the scoring.
        subject_key: Where a batch holds its subject ids: a key, a position in a tuple, or a function of the batch.
        image_key: The same for the images.
        detector: A `MemorizationDetector`, or its options, e.g. `{"alpha": 0.01, "verify": False}`. Without an encoder
            among them, volumes get that of volumes.
        seed: Of the samples: the same latents at every validation, so that epochs can be compared.
        cache: File for the fitted state; used again when encoder, settings and every pixel are the same. Patient data.
        on_error: What happens when something fails: the sampler, scoring, a logger; or samples are NaN or constant.
            `"warn"` says so, logs the validation as not scored, and lets training go on; only what fails before
            anything was scored, and is no fault of the samples, ends it, for then something is set up wrong. `"raise"`
            ends training with the error.
        power: Training images copied for the power self-test at the start of `fit`, each changed in every way of
            `mi_callback.images.perturbations`; 0 for no test. A detector that does not find most of these copies never
            says clean.
        set_scores: Log C_T, AuthPct, FID, KID, Vendi and MiFID of the samples too, on the same features.
        log_images: Send pictures of the closest pairs to W&B and TensorBoard. Patient data: off unless you ask.
        log_subjects: Send subject ids of matches to W&B and TensorBoard. Off unless you ask.

    Attributes:
        scores: `Scores` of the last scored validation, or None.
        samples: The images they belong to, `(n_samples, c, h, w)`, on the CPU.
        history: One `Record` (epoch, step, scores) per scored validation.

    Raises:
        OptionError: For an option that is unknown, of the wrong kind, or without effect beside others.

    Example:
        >>> trainer = Trainer(callbacks=[MemorizationCallback(n_samples=64)])  # doctest: +SKIP
    """

    def __init__(
        self,
        n_samples: int = 128,
        every_n_validations: int = 1,
        sampler: str | Callable[..., Any] | None = None,
        sample_batch_size: int = 64,
        train: Any = None,
        held_out: Any = None,
        control: Any = None,
        subject_key: SubjectKey = None,
        image_key: SubjectKey = None,
        detector: MemorizationDetector | Mapping[str, Any] | None = None,
        seed: int = 0,
        cache: str | Path | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        power: int = 4,
        set_scores: bool = False,
        log_images: bool = False,
        log_subjects: bool = False,
    ) -> None:
        super().__init__()
        self.n_samples = positive_integer("n_samples", n_samples)
        self.every_n_validations = positive_integer("every_n_validations", every_n_validations)
        self.sample_batch_size = positive_integer("sample_batch_size", sample_batch_size)
        self.power = integer("power", power, least=0)
        self.seed = seed_number("seed", seed)
        self.set_scores = switch("set_scores", set_scores)
        self.log_images, self.log_subjects = switch("log_images", log_images), switch("log_subjects", log_subjects)
        self.on_error = choice("on_error", on_error, ("warn", "raise"), OptionError)
        self.sampler = checked_sampler(sampler)
        self.subject_key = checked_key("subject_key", subject_key)
        self.image_key = checked_key("image_key", image_key)
        self.train, self.held_out, self.control, self.cache = train, held_out, control, checked_cache(cache)
        self.detector, self.detector_options = checked_detector(detector, train, held_out, cache)
        self.scores: Scores | None = None
        self.samples: Tensor | None = None
        self.history: list[Record] = []
        self._summary: dict[str, float] = {}
        self._validations = 0
        self._looks = 0
        self._alarmed = False
        self._scored = False
        self._not_scored: list[str] = []
        self._reference: TrainingReference | None = None
        self._caveats: list[str] = []
        self._drawn: Tensor | None = None

    # When ----------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # The first moment at which the Trainer has its loaders; the sanity check needs no scores.
        if trainer.fast_dev_run:
            self._draw(trainer, pl_module, n=2)
            say("fast_dev_run, the sampler works; nothing is fitted or scored.")
            return
        check_strategy(trainer)
        # Before the training set is encoded: a sampler that cannot work is said now.
        with suppress(DataError):  # what an untrained generator draws may be constant
            self._draw(trainer, pl_module, n=2)
        if self.held_out is None:
            fetch_validation_loaders(trainer)
        problem = None
        if trainer.is_global_zero:
            problem = guarded(lambda: self._fit(trainer, pl_module))
        raise_everywhere(trainer, problem)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        # New loaders may hold people who are gone again at the next validation.
        if trainer.reload_dataloaders_every_n_epochs and self.train is None and not trainer.fast_dev_run:
            problem = guarded(lambda: self._catch_up(trainer)) if trainer.is_global_zero else None
            raise_everywhere(trainer, problem)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Averaged weights are in place now, whatever the order of the callbacks that swap them in and out.
        skipped = trainer.sanity_checking or trainer.fast_dev_run or not trainer.is_global_zero
        if batch_idx == dataloader_idx == 0 and not skipped and self._due and self._fitted:
            with suppress(Exception):  # it is drawn again where errors are raised on every rank
                self._drawn = self._draw(trainer, pl_module, self.n_samples)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run:
            return
        # Only rank zero has a detector, and every rank must take the same way.
        fitted = trainer.strategy.broadcast(self._fitted)
        if trainer.state.fn == "validate" and not fitted:
            warn(
                "validate() was called without a fitted detector, so nothing is scored. Pass one: "
                "MemorizationCallback(detector=MemorizationDetector().fit(…))."
            )
            return
        self._count(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Without a validation loop the training epoch takes its place.
        if not trainer.fast_dev_run and not trainer.enable_validation:
            self._count(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations, "looks": self._looks, "alarmed": self._alarmed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]
        self._looks, self._alarmed = state_dict["looks"], state_dict["alarmed"]

    @property
    def _due(self) -> bool:
        # After a resume the first validation is scored too: EarlyStopping needs the key.
        # Every rank must decide alike, and only rank zero has a history.
        return self._validations % self.every_n_validations == 0 or not self._scored

    @property
    def _fitted(self) -> bool:
        return self.detector is not None and self.detector.fitted

    def _count(self, trainer: Any, pl_module: Any) -> None:
        due = self._due
        self._validations += 1
        if not due:
            return
        self._scored = True
        problem = None
        if trainer.is_global_zero:
            problem = guarded(lambda: self._score(trainer, pl_module))
        self._drawn = None
        if trainer.strategy.broadcast(self._forgiven(problem)):
            self._skip(trainer, problem)
        else:
            raise_everywhere(trainer, problem)
        # Every rank logs the same values: a key that only rank zero has is hidden from ModelCheckpoint.
        summary, self._looks, self._alarmed = trainer.strategy.broadcast((self._summary, self._looks, self._alarmed))
        scalars = {f"{PREFIX}{key}": value for key, value in summary.items()}
        pl_module.log_dict(scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _forgiven(self, problem: Exception | None) -> bool:
        """Whether training goes on in spite of a problem. The samples of a young generator may be NaN or constant."""
        return problem is not None and self.on_error == "warn" and (self._looks > 0 or isinstance(problem, DataError))

    def _skip(self, trainer: Any, problem: Exception | None) -> None:
        """Say that a validation is not scored; it is no zero, which would read as clean."""
        if problem is None:  # on other ranks
            return
        self._not_scored.append(f"epoch {trainer.current_epoch}: {type(problem).__name__}: {problem}")
        warn(f"not scored at {self._not_scored[-1]}")
        self._summary = {"scored": 0.0}
        if self.detector is None or not self.detector.fitted:
            return
        state = self.detector.state
        if NullSummary.of(state.null, state.difference).calibrated(self.detector.rule.alpha):
            self._summary["alarm"] = float(self._alarmed)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._not_scored:
            warn(f"{len(self._not_scored)} validations were not scored, the last at {self._not_scored[-1]}")

    # What ----------------------------------------------------------------------------------------------------------

    def _fit(self, trainer: Any, pl_module: Any) -> None:
        say(f"samples come from {self._find_sampler(pl_module).name}.")
        if self._fitted and self._reference is None:
            self._use_fitted()
            return
        sides = self._sides(trainer)
        if self.detector is None:
            with rng_kept():  # an encoder may initialise weights at random before it loads others
                self.detector = build_detector(self.detector_options, sides, pl_module.device)
        with rng_kept():
            say(f"{sides}.")
        self._caveats = say_what_ranks_miss(trainer, sides)
        self._reference = TrainingReference(self.detector, getattr(trainer, "progress_bar_callback", None) is not None)
        with rng_kept():
            sides.check_ends(self.detector.batch_size)
            stored = self._reference.fit(sides, self.cache)
            self._fit_control()
            if self.power:
                self.detector.power(self.power)
        say_randomness(self._reference, self.cache)
        say_fitted(self.detector, stored, self.n_samples)

    def _fit_control(self) -> None:
        assert self.detector is not None
        if self.control is None:
            return
        source = Source("control=", self.control, shared=False)
        batches = source.batches(self.detector.batch_size)
        self.detector.fit_control(batches, subject_key=self.subject_key, image_key=self.image_key)
        assert self.detector.control is not None
        say(f"the control has {len(self.detector.control.state.train)} images.")

    def _use_fitted(self) -> None:
        assert self.detector is not None
        say(f"using the fitted detector ({len(self.detector.state.train)} training images).")
        with rng_kept():
            self._fit_control()
        if self.power and self.detector.measured_power is None and self.detector.state.planted is not None:
            with rng_kept():
                self.detector.power(self.power)

    def _sides(self, trainer: Any) -> Sides:
        null = NullKind(self.detector.null_choice if self.detector else self.detector_options.get("null", "auto"))
        contrast = self.detector.contrast if self.detector else self.detector_options.get("contrast", False)
        wanted = contrast or null in (NullKind.AUTO, NullKind.HELD_OUT)
        return sides_of(trainer, self.train, self.held_out, wanted, self.subject_key, self.image_key)

    def _catch_up(self, trainer: Any) -> None:
        """Search what is trained on now, too; where that cannot be, say so, and never say clean again."""
        if self._reference is None or self.train is not None:
            return
        assert self.detector is not None
        try:
            with rng_kept():
                found = Sides(training_sources(trainer), (), (), self.subject_key, self.image_key)
                news = self._reference.catch_up(found, look=self._validations + trainer.current_epoch)
                if news and self.power:
                    self.detector.power(self.power)
        except MemorizationError as error:
            if str(error) not in self._caveats:
                self._caveats.append(str(error))
                warn(f"{error}. Until then nothing reads as clean.")
            return
        if news:
            say(f"the training data changed: {news}.")

    def _score(self, trainer: Any, pl_module: Any) -> None:
        if self.detector is None:
            raise StateError("needed a detector that was fitted at the start of fit; none is there.")
        if trainer.state.fn == "fit":
            self._catch_up(trainer)
        self.samples = self._draw(trainer, pl_module, self.n_samples) if self._drawn is None else self._drawn
        with rng_kept(), torch.inference_mode(False), torch.no_grad():
            self.scores = replace(self.detector.score(self.samples), caveats=tuple(self._caveats))
            others = self.detector.set_scores(self.samples) if self.set_scores else {}
        self._looks += 1
        before = self._alarmed
        self._alarmed = before or self.scores.alarm(self._looks)
        # Loggers lose NaN without a word: a set-level score that is undefined for these samples is left out.
        self._summary = self.scores.summary() | {key: value for key, value in others.items() if value == value}
        self._summary["scored"] = 1.0
        if self.scores.flagging.calibrated:
            self._summary["alarm"] = float(self._alarmed)
        self.history.append(Record(trainer.current_epoch, trainer.global_step, self.scores))
        say_scores(self.scores, trainer.current_epoch)
        if self.scores.flagging.calibrated and self._alarmed and not before:
            say(f"alarm raised at epoch {trainer.current_epoch}.")
        self._log_media(trainer)

    def _log_media(self, trainer: Any) -> None:
        """Pictures and tables; what fails here costs nothing that was found."""
        assert self.scores is not None
        pairs = self.closest_pairs(8) if self.log_images else None
        for logger in trainer.loggers:
            try:
                log_media(logger, self.scores, logged_step(trainer), self.log_subjects, pairs)
            except Exception as error:
                if self.on_error == "raise":
                    raise
                warn(f"{type(logger).__name__} did not take pictures and tables: {type(error).__name__}: {error}")

    def _find_sampler(self, pl_module: Any) -> FoundSampler:
        return find_sampler(pl_module, self.sampler)

    def _draw(self, trainer: Any, pl_module: Any, n: int) -> Tensor:
        sampler, context = self._find_sampler(pl_module), trainer.precision_plugin.forward_context
        return draw(pl_module, sampler, n, self.sample_batch_size, self.seed, context)

    def closest_pairs(self, n: int) -> Tensor:
        """The n likeliest copies beside their matches, worst first: `(n, 1, size, 2 size)` in [0, 1]."""
        if self.scores is None or self.samples is None or self.detector is None:
            raise StateError("needed a scored validation; none was scored yet.")
        return closest_pairs(self.detector, self.samples, self.scores, n)
