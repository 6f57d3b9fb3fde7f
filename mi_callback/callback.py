"""When to fit, when to score, on which rank and with which random numbers. No mathematics."""

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError, StateError
from mi_callback.lightning.loaders import all_loaders, evaluation_loader, is_random, same_items
from mi_callback.lightning.loggers import PREFIX, log_media
from mi_callback.lightning.sampling import draw, find_sampler, rng_kept
from mi_callback.reporting import closest_pairs
from mi_callback.scores import Scores
from mi_callback.state import fingerprint
from mi_callback.statistics.null import smallest_p, subjects_needed
from mi_callback.statistics.power import Power
from mi_callback.types import SubjectKey

SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")
"""Strategies under which no rank can sample alone."""


class Record(NamedTuple):
    """A scored validation."""

    epoch: int
    step: int
    scores: Scores


class MemorizationCallback(Callback):
    """Scores the generator's samples against its training set at every validation.

    At the start of `fit` the whole training set is encoded, in order, and a null is calibrated on the validation
    data (or, without any, on training subjects against each other). After each validation epoch `n_samples` images
    are drawn and scored. Training is not disturbed: weights with and without the callback are bit-identical.

    Logged scalars, usable by EarlyStopping and ModelCheckpoint, all under `memorization/`: `mi_mean`, `mi_median`,
    `mi_p95`, `mi_max`, `oni_mean`, `similarity_mean`, `verified_max` (with verification), and, where the null has
    enough subjects for `alpha`, `flagged`, `flagged_expected`, `rate`, `rate_lower`, `rate_upper`,
    `matched_subjects`. Where it has not, these are absent and the result is said to be inconclusive: a zero would
    read as clean. W&B and TensorBoard also get `memorization_media/mi` (histogram) and `memorization_media/flagged`
    (table). Between scored validations `trainer.callback_metrics` keeps the last values.

    With `WeightAveraging` or another EMA callback, put this one before it in the list: the averaged weights are in
    place during the validation epoch, and they are the ones you release.

    Args:
        n_samples: Images drawn per scored validation.
        every_n_validations: Cadence, counted in validations; the first one is always scored.
        sampler: How to draw images: a callable `(module, n)` or `(n)`, a dotted name, or None to find it (see
            `mi_callback.lightning.sampling.find_sampler`).
        sample_batch_size: Images drawn per call of the sampler.
        train: Training images, where they are not what the Trainer trains on (a Dataset without augmentation, say).
        held_out: Real images of subjects that are not trained on; the Trainer's validation data when None.
        subject_key: Where a batch holds its subject ids: a key, or a function of the batch.
        image_key: The same for the images.
        detector: A `MemorizationDetector`, or its options, e.g. `{"alpha": 0.01, "verify": False}`.
        seed: Of the samples: the same latents at every validation, so that epochs can be compared.
        cache: File for the fitted state; used again when encoder, settings and every pixel are the same. Patient data.
        on_bad_samples: What happens when samples are NaN, infinite or constant: `"raise"` ends training with the error,
            `"warn"` says so and scores nothing at that validation.
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
        ValueError: If a count is below 1.
        TypeError: If `detector` is neither a detector nor a mapping of its options.

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
        subject_key: SubjectKey = None,
        image_key: SubjectKey = None,
        detector: MemorizationDetector | Mapping[str, Any] | None = None,
        seed: int = 0,
        cache: str | Path | None = None,
        on_bad_samples: Literal["raise", "warn"] = "raise",
        power: int = 4,
        set_scores: bool = False,
        log_images: bool = False,
        log_subjects: bool = False,
    ) -> None:
        super().__init__()
        for name, count in (
            ("n_samples", n_samples),
            ("every_n_validations", every_n_validations),
            ("sample_batch_size", sample_batch_size),
        ):
            if count < 1:
                raise ValueError(f"needed {name} of at least 1; {count!r} came.")
        if not (detector is None or isinstance(detector, (MemorizationDetector, Mapping))):
            raise TypeError(
                f"needed a MemorizationDetector or a mapping of its options; {type(detector).__name__} came."
            )
        if on_bad_samples not in ("raise", "warn"):
            raise ValueError(f"needed on_bad_samples raise or warn; {on_bad_samples!r} came.")
        if power < 0:
            raise ValueError(f"needed power of at least 0; {power!r} came.")
        unknown = (
            set(detector) - set(signature(MemorizationDetector).parameters) if isinstance(detector, Mapping) else ()
        )
        if unknown:
            raise TypeError(f"needed options of MemorizationDetector; it has no {sorted(unknown)}.")
        self.on_bad_samples = on_bad_samples
        self.n_samples, self.every_n_validations = n_samples, every_n_validations
        self.sampler, self.sample_batch_size = sampler, sample_batch_size
        self.train, self.held_out = train, held_out
        self.subject_key, self.image_key = subject_key, image_key
        self.detector = detector if isinstance(detector, MemorizationDetector) else None
        self.detector_options = dict(detector) if isinstance(detector, Mapping) else {}
        self.seed, self.cache = seed, cache
        self.power, self.set_scores = power, set_scores
        self.log_images, self.log_subjects = log_images, log_subjects
        self.scores: Scores | None = None
        self.samples: Tensor | None = None
        self.history: list[Record] = []
        self._summary: dict[str, float] = {}
        self._validations = 0
        self._looks = 0
        self._alarmed = False
        self._scored = False
        self._fitted_here = False

    # When ----------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # The first moment at which the Trainer has both loaders; the sanity check needs no scores.
        if trainer.fast_dev_run:
            self._draw(trainer, pl_module, n=2)
            rank_zero_info("memorization: fast_dev_run, the sampler works; nothing is fitted or scored.")
            return
        strategy = type(trainer.strategy).__name__
        if any(name in strategy for name in SHARDED):
            raise StateError(
                f"needed a strategy in which every rank holds the whole model, for rank zero draws the samples alone; "
                f"{strategy} shards it. Score checkpoints afterwards with MemorizationDetector."
            )
        # Before the training set is encoded: a sampler that cannot work is said now.
        with suppress(DataError):  # what an untrained generator draws may be constant
            self._draw(trainer, pl_module, n=2)
        problem = None
        if trainer.is_global_zero:
            problem = self._guarded(lambda: self._fit(trainer, pl_module))
        self._raise_everywhere(trainer, problem)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run:
            return
        # Only rank zero has a detector, and every rank must take the same way.
        fitted = trainer.strategy.broadcast(self.detector is not None and self.detector.fitted)
        if trainer.state.fn == "validate" and not fitted:
            rank_zero_warn(
                "memorization: validate() was called without a fitted detector, so nothing is scored. Pass "
                "one: MemorizationCallback(detector=MemorizationDetector().fit(…))."
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

    def _count(self, trainer: Any, pl_module: Any) -> None:
        # After a resume the first validation is scored too: EarlyStopping needs the key.
        # Every rank must decide alike, and only rank zero has a history.
        due = self._validations % self.every_n_validations == 0 or not self._scored
        self._validations += 1
        if not due:
            return
        self._scored = True
        problem = None
        if trainer.is_global_zero:
            problem = self._guarded(lambda: self._score(trainer, pl_module))
        skipped = self.on_bad_samples == "warn" and isinstance(problem, DataError)
        if trainer.strategy.broadcast(skipped):
            rank_zero_warn(f"memorization: nothing is scored or logged at this validation: {problem}")
            return
        self._raise_everywhere(trainer, problem)
        # Every rank logs the same values: a key that only rank zero has is hidden from ModelCheckpoint.
        summary, self._looks, self._alarmed = trainer.strategy.broadcast((self._summary, self._looks, self._alarmed))
        scalars = {f"{PREFIX}{key}": value for key, value in summary.items()}
        pl_module.log_dict(scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    # What ----------------------------------------------------------------------------------------------------------

    def _fit(self, trainer: Any, pl_module: Any) -> None:
        if self.detector is not None and self.detector.fitted and not self._fitted_here:
            rank_zero_info(
                f"memorization: using the fitted detector ({len(self.detector.state.train)} training images)."
            )
            return
        if self.detector is None:
            with rng_kept():  # an encoder may initialise weights at random before it loads others
                self.detector = MemorizationDetector(**self._options_on(pl_module.device))
        detector, self._fitted_here = self.detector, True
        sources = all_loaders(trainer.train_dataloader) if self.train is None else [self.train]
        held_out = self._held_out(trainer, sources)
        keys: dict[str, Any] = {"subject_key": self.subject_key, "image_key": self.image_key}
        with rng_kept():
            cache = self.cache
            if any(is_random(data, self.image_key, shared=self.train is None) for data in sources):
                cache = None
                rank_zero_warn(
                    "memorization: the training set changes its images at random, so copies are looked for among one "
                    f"draw of each{', and the cache is not used' if self.cache else ''}. Pass it without augmentation: "
                    "MemorizationCallback(train=…)."
                )

            def training() -> Any:
                loaders = [evaluation_loader(data, detector.batch_size, self.train is None) for data in sources]
                return loaders[0] if len(loaders) == 1 else itertools.chain.from_iterable(loaders)

            def novel() -> Any:
                shared = self.held_out is None
                return None if held_out is None else evaluation_loader(held_out, detector.batch_size, shared)

            stored = False
            if cache is not None:
                data = fingerprint(training(), novel(), **keys)
                stored = self._load(cache, data)
            if not stored:
                progress = getattr(trainer, "progress_bar_callback", None) is not None
                detector.fit(training(), held_out=novel(), progress=progress, **keys)
                if cache is not None:
                    detector.save(cache, data)
            if self.power:
                detector.power(self.power)
        self._say_what_was_fitted(stored)

    def _options_on(self, device: torch.device) -> dict[str, Any]:
        """Options of the detector, on the device of the module where none was asked for."""
        return self.detector_options | {"device": self.detector_options.get("device") or device}

    def _held_out(self, trainer: Any, train: list[Any]) -> Any:
        """Validation data that can serve as held-out images, or None where the null is made from training subjects."""
        assert self.detector is not None
        if self.detector.null_choice in ("cross_fit", "train_halves"):
            return None
        if self.held_out is not None:
            return self.held_out
        found = next(iter(all_loaders(trainer.val_dataloaders)), None)
        # overfit_batches validates on the training set itself.
        if found is None or trainer.overfit_batches > 0 or any(same_items(found, data) for data in train):
            return None
        return found

    def _load(self, cache: str | Path, data: str) -> bool:
        assert self.detector is not None
        if not Path(cache).is_file():
            return False
        try:
            self.detector.load(cache, data)
        except StateError as error:
            rank_zero_info(f"memorization: the cache is not used: {error}")
            return False
        return True

    def _say_what_was_fitted(self, stored: bool) -> None:
        assert self.detector is not None
        detector, train, null = self.detector, self.detector.state.train, self.detector.state.null
        unit = "subjects" if null.subjects is not None else "images, each taken as its own subject (no ids found)"
        of = f" of {len(set(train.subjects))} subjects" if train.subjects is not None else ""
        unsure = null.kind == "held_out" and (null.subjects is None or train.subjects is None)
        rank_zero_info(
            f"memorization: {'loaded' if stored else 'encoded'} {len(train)} training images{of} with "
            f"{detector.encoder.name!r}; {null.kind} null of {len(null.similarity)} images, {null.n_subjects} {unit}"
            f"{'; that no held-out person was trained on cannot be checked' if unsure else ''}."
        )
        if detector.measured_power is not None and null.resolves(detector.rule.alpha):
            self._say_what_was_seen(detector.measured_power)
        level = detector.rule.alpha if detector.rule.fdr is None else detector.rule.fdr
        if detector.rule.fdr is not None and not null.resolves(detector.rule.fdr / self.n_samples):
            one, ten = (subjects_needed(k * detector.rule.fdr / self.n_samples, null.kind) for k in (1, 10))
            rank_zero_warn(
                f"memorization: at a false discovery rate of {detector.rule.fdr:g} among {self.n_samples} samples one "
                f"copy alone needs {one} {unit} in the null, ten copies need {ten}; there are {null.n_subjects}. "
                "Without any flag the result is inconclusive."
            )
        if not null.resolves(level):
            rank_zero_warn(
                f"memorization: inconclusive. With {null.n_subjects} {unit} in the {null.kind} null no p-value is "
                f"below {smallest_p(null.n_subjects, null.kind):.3g}, so nothing can be flagged at {level:g}. Provide "
                f"at least {subjects_needed(level, null.kind)}, or raise the level. MI is logged; counts are not."
            )

    @staticmethod
    def _say_what_was_seen(power: Power) -> None:
        missed = f"; missed: {', '.join(power.missed)}" if power.missed else ""
        rank_zero_info(
            f"memorization: power self-test: of copies of {power.n} training images, changed in {len(power.flagged)} "
            f"ways, {power.overall:.0%} are flagged{missed}."
        )
        if not power.sees_copies:
            rank_zero_warn(
                f"memorization: the detector flags {power.overall:.0%} of planted copies, so it never says clean. Give "
                "it an encoder that suits these images, or a higher alpha: detector={'encoder': …}."
            )

    def _score(self, trainer: Any, pl_module: Any) -> None:
        if self.detector is None:
            raise StateError("needed a detector that was fitted at the start of fit; none is there.")
        self.samples = self._draw(trainer, pl_module, self.n_samples)
        with rng_kept(), torch.inference_mode(False), torch.no_grad():
            self.scores = self.detector.score(self.samples)
            others = self.detector.set_scores(self.samples) if self.set_scores else {}
        self._looks += 1
        before = self._alarmed
        self._alarmed = before or self.scores.alarm(self._looks)
        # Loggers lose NaN without a word: a set-level score that is undefined for these samples is left out.
        self._summary = self.scores.summary() | {key: value for key, value in others.items() if value == value}
        if self.scores.flagging.calibrated and self._alarmed and not before:
            rank_zero_info(f"memorization: alarm raised at epoch {trainer.current_epoch}.")
        if self.scores.flagging.calibrated:
            self._summary["alarm"] = float(self._alarmed)
        self.history.append(Record(trainer.current_epoch, trainer.global_step, self.scores))
        rank_zero_info(f"memorization: epoch {trainer.current_epoch}: {self.scores}")
        pairs = self.closest_pairs(8) if self.log_images else None
        # The step at which Lightning logs the scalars; `global_step` counts every optimizer of a GAN.
        stepped = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
        step = stepped - (not trainer.validating)
        for logger in trainer.loggers:
            log_media(logger, self.scores, step, self.log_subjects, pairs)

    def _draw(self, trainer: Any, pl_module: Any, n: int) -> Tensor:
        sampler = find_sampler(pl_module, self.sampler)
        return draw(pl_module, sampler, n, self.sample_batch_size, self.seed, trainer.precision_plugin.forward_context)

    def closest_pairs(self, n: int) -> Tensor:
        """The n likeliest copies beside their matches, worst first: `(n, 1, size, 2 size)` in [0, 1]."""
        if self.scores is None or self.samples is None or self.detector is None:
            raise StateError("needed a scored validation; none was scored yet.")
        return closest_pairs(self.detector, self.samples, self.scores, n)

    # Ranks ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def _guarded(work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except Exception as error:
            return error
        return None

    @staticmethod
    def _raise_everywhere(trainer: Any, problem: Exception | None) -> None:
        """An error on rank zero ends every rank: the others would wait for it for ever."""
        message = trainer.strategy.broadcast(None if problem is None else f"{type(problem).__name__}: {problem}")
        if problem is not None:
            raise problem
        if message is not None:
            raise StateError(f"needed rank zero to score; it stopped with {message}")
