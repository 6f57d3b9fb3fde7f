"""When to fit, when to score, on which rank and with which random numbers. No mathematics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mi_callback.arguments import integer, positive_integer, seed_number, switch
from mi_callback.cache import checked_cache
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError, StateError, choice
from mi_callback.lightning.acting import Acting, checked_acts
from mi_callback.lightning.data.sides import fetch_validation_loaders
from mi_callback.lightning.drawing import Drawing
from mi_callback.lightning.loggers import logged_step
from mi_callback.lightning.loggers.looks import band
from mi_callback.lightning.loggers.names import ALONE, check_apart, checked_name
from mi_callback.lightning.messages import say, say_scores, warn
from mi_callback.lightning.options import checked_detector, checked_key, checked_sampler
from mi_callback.lightning.preparing import Preparation
from mi_callback.lightning.randomness import rng_kept
from mi_callback.lightning.ranks import Ranks, check_strategy, guarded
from mi_callback.lightning.recording import Recording
from mi_callback.lightning.samplers import ReadySampler
from mi_callback.lightning.time_limit import TimeLimit, TimeUp, checked_time_limit
from mi_callback.reporting import closest_pairs
from mi_callback.scores import Scores
from mi_callback.statistics.flagging import NullSummary
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
    as clean. Training is not disturbed: weights with and without the callback are bit-identical. At the end of `fit`
    a table tells the verdicts, and a report lies beside the logs. `validate` and `test` score, too.

    Logged scalars, usable by EarlyStopping and ModelCheckpoint, all under `memorization/`: `mi_mean`, `mi_median`,
    `mi_p95`, `mi_max`, `oni_mean`, `similarity_mean`, `verified_max` (with verification), and, where the null has
    enough subjects for `alpha`, `flagged`, `flagged_expected`, `rate`, `rate_lower`, `rate_upper`,
    `matched_subjects`. Where it has not, these are absent and the result is said to be inconclusive: a zero would
    read as clean. Beside them `alarm`, `scored`, `n_scored`, and the band of MI, `mi_p05` to `mi_p95`, with that of
    the null, `null_mi_p05` to `null_mi_p95`. W&B, TensorBoard and MLflow also get distributions, tables and curves
    under `memorization_media/`. Between scored validations `trainer.callback_metrics` keeps the last values.

    With `WeightAveraging` or another EMA callback, before or after this one, the averaged weights are sampled, as they
    are in place while validation batches are run.

    Args:
        n_samples: Images drawn per scored validation.
        every_n_validations: Cadence, counted in validations; the first one is always scored.
        sampler: How to draw images: a callable `(module, n)` or `(n)`; a dotted name; `"monai"`, `"diffusers"`,
            `"decoder"`, `"validation_step"` or `"predict_step"`, or an object of `mi_callback.lightning.samplers` with
            its options; or None to find it (see `mi_callback.lightning.sampling.find_sampler`).
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
        cache: File for the fitted state, or a folder for several; used again when encoder, settings and images are the
            same. Patient data.
        cache_check: How that is seen. `"sampled"`: by all that data sets hold in memory, size and time of the files
            that they name, and 256 images of each, others each time; by every pixel where these differ or tell nothing.
            `"full"`: by every pixel.
        on_error: What happens when something fails while training: the sampler, scoring, a logger, the cache; or
            samples are NaN or constant. `"warn"` says so, logs the validation as not scored, and lets training go on;
            what fails before training ends it, for then something is set up wrong. `"raise"` ends it with any error.
        power: Training images copied for the power self-test at the start of `fit`, each changed in every way of
            `mi_callback.images.perturbations`; 0 for no test. A detector that does not find most of these copies never
            says clean.
        set_scores: Log C_T, AuthPct, FID, KID, Vendi and MiFID of the samples too, on the same features.
        log_images: Send pictures of the closest pairs to W&B and TensorBoard. Patient data: off unless you ask.
        log_subjects: Send subject ids of matches to W&B and TensorBoard. Off unless you ask.
        condition_key: Where validation batches hold what a conditional generator draws images for (labels, prompts,
            masks): a key, a position, or a function of the batch. The sampler gets n of them, by which flags are
            grouped.
        time_limit: Seconds, or a `timedelta`, for sampling and scoring at a validation. Fewer samples are scored where
            they take longer, or none, and that is said.
        act: What happens at the alarm, beside its being logged: `"stop"` training, `"veto"` checkpoints after it,
            `"raise"` an `AlarmError` at the end of `fit`; one or several. Checkpoints say what was found up to then.
        report: Folder of the report; beside the logs when None. It holds names of people and files that were copied, in
            `matches.csv`; readable by its owner alone.
        name: Of one callback among several in a Trainer: it logs under `memorization_NAME/`, and so are its report and
            what it says in checkpoints called.

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
        sampler: str | ReadySampler | Callable[..., Any] | None = None,
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
        condition_key: SubjectKey = None,
        time_limit: float | timedelta | None = None,
        act: Literal["stop", "veto", "raise"] | Sequence[Literal["stop", "veto", "raise"]] | None = None,
        report: str | Path | None = None,
        name: str | None = None,
        cache_check: Literal["sampled", "full"] = "sampled",
    ) -> None:
        super().__init__()
        self.names = checked_name(name)
        self.n_samples = positive_integer("n_samples", n_samples)
        self.every_n_validations = positive_integer("every_n_validations", every_n_validations)
        self.set_scores, self.log_images = switch("set_scores", set_scores), switch("log_images", log_images)
        self.on_error = choice("on_error", on_error, ("warn", "raise"), OptionError)
        self.seed = seed_number("seed", seed)
        self.subject_key, self.image_key = checked_key("subject_key", subject_key), checked_key("image_key", image_key)
        self._limit = TimeLimit(checked_time_limit(time_limit))
        self._drawing = Drawing(
            checked_sampler(sampler), self.n_samples, positive_integer("sample_batch_size", sample_batch_size),
            self.seed, self._limit, checked_key("condition_key", condition_key), train, self.image_key,
        )  # fmt: skip
        checked, self.detector_options = checked_detector(detector, train, held_out, cache)
        self._prepared = Preparation(
            checked, self.detector_options, train, held_out, control, self.subject_key, self.image_key,
            checked_cache(cache), integer("power", power, least=0), lenient=self.on_error == "warn",
            full_check=choice("cache_check", cache_check, ("sampled", "full"), OptionError) == "full",
        )  # fmt: skip
        self._acting = Acting(checked_acts(act))
        self._recording = Recording(report, switch("log_subjects", log_subjects), self.on_error == "warn", self.names)
        self.scores: Scores | None = None
        self.samples: Tensor | None = None
        self.history: list[Record] = []
        self._summary: dict[str, float] = {}
        self._validations = 0
        self._looks = 0
        self._alarmed = False
        self._scored = False

    @property
    def detector(self) -> MemorizationDetector | None:
        """The detector that scores; None until it is made at the start of `fit`."""
        return self._prepared.detector

    @property
    def state_key(self) -> str:
        """Under which a checkpoint keeps the state; the name tells several callbacks of a Trainer apart."""
        own = type(self).__qualname__
        return own if self.names == ALONE else f"{own}[{self.names.base}]"

    # When ----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        check_apart(self, trainer.callbacks)
        if stage == "fit" and trainer.global_step == 0:  # another run; a checkpoint is loaded after this
            self._validations, self._looks, self._alarmed, self._scored = 0, 0, False, False
            self._summary = {}
        self._acting.put_back()  # where the last run was killed
        with Ranks.of(trainer).together():
            self._recording.begin(trainer, stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # The first moment at which the Trainer has its loaders; the sanity check needs no scores.
        # Before the training set is encoded: a sampler that cannot work is said now.
        if not trainer.fast_dev_run:
            check_strategy(trainer, timed=self._limit.seconds is not None)
        self._drawing.try_out(trainer, pl_module)
        if trainer.fast_dev_run:
            say("fast_dev_run, the sampler works; nothing is fitted or scored.")
            return
        self._fit(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        # New loaders may hold people who are gone again at the next validation.
        if trainer.reload_dataloaders_every_n_epochs and not trainer.fast_dev_run:
            self._catch_up(trainer)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Averaged weights are in place now, whatever the order of the callbacks that swap them in and out.
        if batch_idx == dataloader_idx == 0 and self._watches(trainer) and self._prepared.ready:
            self._drawing.draw_early(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._watches(trainer):
            self._drawing.take(outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and not trainer.fast_dev_run and self._ready(trainer):
            self._count(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Without a validation loop the training epoch takes its place.
        if not trainer.fast_dev_run and not trainer.enable_validation:
            self._begin(trainer)
            self._count(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.fast_dev_run and self._ready(trainer):
            self._look(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.names.base] = {"alarm": self._alarmed, "looks": self._looks, **self._recording.last()}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.fast_dev_run:
            with Ranks.of(trainer).together():
                if trainer.is_global_zero:
                    self._recording.end(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._acting.put_back(failed=True)
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            guarded(lambda: self._recording.end(trainer))  # the exception is what there is to say

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._acting.end(bool(self._summary.get("alarm")))

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

    def _watches(self, trainer: Any) -> bool:
        """Whether samples are drawn at the validation that is run."""
        return self._due and not trainer.sanity_checking and not trainer.fast_dev_run

    def _begin(self, trainer: Any) -> None:
        # Only rank zero has a fitted detector, and every rank must take the same way.
        self._prepared.ready = Ranks.of(trainer).from_zero(self._prepared.fitted)
        self._drawing.begin(trainer)

    def _ready(self, trainer: Any) -> bool:
        if self._prepared.ready or trainer.state.fn == "fit":
            return True
        warn(
            f"{trainer.state.fn.value}() was called without a fitted detector, so nothing is scored. Pass one: "
            "MemorizationCallback(detector=MemorizationDetector().fit(…))."
        )
        return False

    def _count(self, trainer: Any, pl_module: Any) -> None:
        due = self._due
        self._validations += 1
        if due:
            self._scored = True
            self._look(trainer, pl_module)

    def _look(self, trainer: Any, pl_module: Any) -> None:
        ranks, problem = Ranks.of(trainer), guarded(lambda: self._score(trainer, pl_module))
        # That time was up, or a young generator draws no images yet, is what there is to say, and no error.
        if not ranks.from_zero(problem is None or self.on_error == "warn" or isinstance(problem, TimeUp)):
            ranks.exchange(None, problem)
        if problem is not None and ranks.first:
            self._skip(trainer, problem)
        # Every rank logs the same values: a key that only rank zero has is hidden from ModelCheckpoint.
        own = (self._summary, self._looks, self._alarmed, self._limit.each)
        summary, self._looks, self._alarmed, each = ranks.from_zero(own)
        self._limit.expect(each)
        self._summary = summary
        scalars = {self.names.scalar(key): value for key, value in summary.items()}
        pl_module.log_dict(scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        if summary.get("alarm"):
            self._acting.alarmed(trainer)

    def _skip(self, trainer: Any, problem: Exception) -> None:
        """Say that a validation is not scored; it is no zero, which would read as clean."""
        self._recording.skip(trainer, problem)
        self._summary = {"scored": 0.0, "n_scored": 0.0}
        if self.detector is None or not self.detector.fitted:
            return
        state = self.detector.state
        if NullSummary.of(state.null, state.difference).calibrated(self.detector.rule.alpha):
            self._summary["alarm"] = float(self._alarmed)

    # What ----------------------------------------------------------------------------------------------------------

    def _fit(self, trainer: Any, pl_module: Any) -> None:
        ranks = Ranks.of(trainer)
        with ranks.together():
            if self._prepared.held_out is None:
                fetch_validation_loaders(trainer)
            self._recording.sampled = self._drawing.described(trainer, pl_module)
            say(f"{self._recording.sampled}.")
        self._prepared.fit(trainer, pl_module, self.n_samples)
        self._limit.expect(ranks.from_zero(self._prepared.seconds_each))

    def _catch_up(self, trainer: Any) -> None:
        self._prepared.catch_up(trainer, self._validations + trainer.current_epoch)

    def _score(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self._catch_up(trainer)
        samples = self._drawing.samples(trainer, pl_module)
        if samples is not None:  # on rank zero
            self._judge(trainer, samples)

    def _judge(self, trainer: Any, samples: Tensor) -> None:
        if self.detector is None:
            raise StateError("needed a detector that was fitted at the start of fit; none is there.")
        with rng_kept(), torch.inference_mode(False), torch.no_grad(), self._limit.scoring(len(samples)):
            scores = replace(self.detector.score(samples), caveats=tuple(self._prepared.caveats))
            others = self.detector.set_scores(samples) if self.set_scores else {}
        self.samples, self.scores = samples, scores
        self._looks += 1
        before = self._alarmed
        self._alarmed = before or scores.alarm(self._looks)
        # Loggers lose NaN without a word: a set-level score that is undefined for these samples is left out.
        self._summary = scores.summary() | {key: value for key, value in others.items() if value == value}
        self._summary |= band(scores, self.detector.state.null) | {"scored": 1.0, "n_scored": float(len(samples))}
        if scores.flagging.calibrated:
            self._summary["alarm"] = float(self._alarmed)
        self.history.append(Record(trainer.current_epoch, trainer.global_step, scores))
        say_scores(scores, trainer.current_epoch, self.n_samples, self.names.said)
        raised = scores.flagging.calibrated and self._alarmed and not before
        if raised:
            say(f"alarm raised at epoch {trainer.current_epoch}.", self.names.said)
        pairs = (lambda: self.closest_pairs(8)) if self.log_images else None
        sources, names = self.detector.state.train.sources, self._drawing.names(len(samples))
        self._recording.look(trainer, logged_step(trainer), scores, self._summary, names, sources, pairs, raised)

    def closest_pairs(self, n: int) -> Tensor:
        """The n likeliest copies beside their matches, worst first: `(n, 1, size, 2 size)` in [0, 1]."""
        if self.scores is None or self.samples is None or self.detector is None:
            raise StateError("needed a scored validation; none was scored yet.")
        return closest_pairs(self.detector, self.samples, self.scores, n)
