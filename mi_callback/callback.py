"""When to fit, when to score, on which rank and with which random numbers. No mathematics."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mi_callback.arguments import integer, positive_integer, seed_number, switch
from mi_callback.cache import checked_cache
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError, StateError, choice
from mi_callback.lightning.acting import Acting, checked_acts
from mi_callback.lightning.background.judging import Samples, judge
from mi_callback.lightning.background.line import IN_LINE, Background
from mi_callback.lightning.background.process import PICTURES
from mi_callback.lightning.course import Course, Record
from mi_callback.lightning.data.sides import fetch_validation_loaders
from mi_callback.lightning.drawing import Drawing
from mi_callback.lightning.loggers import logged_step
from mi_callback.lightning.loggers.names import ALONE, check_apart, checked_name
from mi_callback.lightning.messages import say, shows_progress, warn
from mi_callback.lightning.options import checked_background, checked_detector, checked_key, checked_sampler
from mi_callback.lightning.preparing import Preparation
from mi_callback.lightning.randomness import rng_kept
from mi_callback.lightning.ranks import Ranks, check_strategy, guarded
from mi_callback.lightning.recording import Recording
from mi_callback.lightning.samplers import ReadySampler
from mi_callback.lightning.time_limit import TimeLimit, TimeUp, checked_time_limit
from mi_callback.reporting import closest_pairs
from mi_callback.scores import Scores
from mi_callback.types import SubjectKey


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
        background: Score in a process of its own, beside training, which then waits for sampling alone. What it found
            is logged at the next validation, and the last of it at the end of `fit`: whoever monitors a key sees it one
            validation late. Holds the fitted state a second time, on the same device. Not beside `time_limit`.
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
        background: bool = False,
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
        self.background = checked_background(background, time_limit)
        self._line: Background | None = None  # on rank zero, while it trains
        self._acting = Acting(checked_acts(act))
        self._recording = Recording(report, switch("log_subjects", log_subjects), self.on_error == "warn", self.names)
        self._course = Course(self._prepared, self._recording, self.n_samples)
        self._validations = 0
        self._scored = False

    @property
    def detector(self) -> MemorizationDetector | None:
        """The detector that scores; None until it is made at the start of `fit`."""
        return self._prepared.detector

    @property
    def scores(self) -> Scores | None:
        """Of the last scored validation."""
        return self._course.scores

    @property
    def samples(self) -> Tensor | None:
        """The images they belong to."""
        return self._course.samples

    @property
    def history(self) -> list[Record]:
        """One record per scored validation."""
        return self._course.history

    @property
    def state_key(self) -> str:
        """Under which a checkpoint keeps the state; the name tells several callbacks of a Trainer apart."""
        own = type(self).__qualname__
        return own if self.names == ALONE else f"{own}[{self.names.base}]"

    # When ----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        check_apart(self, trainer.callbacks)
        if stage == "fit" and trainer.global_step == 0:  # another run; a checkpoint is loaded after this
            self._validations, self._scored = 0, False
            self._course.begin()
        self._acting.put_back()  # where the last run was killed
        self._end_line()
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
        checkpoint[self.names.base] = self._course.told()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fast_dev_run:
            return
        ranks = Ranks.of(trainer)
        with ranks.together():
            if self._line is not None:
                self._course.fetch(trainer, self._line, most=0, over=True)
                self._end_line()
            if ranks.first:
                self._recording.end(trainer)
        if self.background:
            scalars = self._course.share(ranks)
            trainer.callback_metrics.update({key: torch.tensor(value) for key, value in scalars.items()})
            self._acting.look(trainer, self._course.alarm)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._acting.put_back(failed=True)
        if trainer.state.fn == "fit" and trainer.is_global_zero:  # the exception is what there is to say
            if (line := self._end_line()) is not None:
                guarded(lambda: self._course.fetch(trainer, line, most=0, over=True))
            guarded(lambda: self._recording.end(trainer))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._acting.end(self._course.alarm)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations, "looks": self._course.looks, "alarmed": self._course.alarmed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]
        self._course.looks, self._course.alarmed = state_dict["looks"], state_dict["alarmed"]

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
        ranks = Ranks.of(trainer)
        if self.background:
            self._course.clear()
        late = guarded(lambda: self._fetch(trainer, IN_LINE - 1))
        problem = guarded(lambda: self._score(trainer, pl_module))  # after an error, too: ranks draw together
        problem = late or problem
        # That time was up, or a young generator draws no images yet, is what there is to say, and no error.
        if not ranks.from_zero(problem is None or self.on_error == "warn" or isinstance(problem, TimeUp)):
            ranks.exchange(None, problem)
        if problem is not None and ranks.first:
            self._course.skip(trainer, problem)
            if self._line is None:
                self._course.clear()
        self._limit.expect(ranks.from_zero(self._limit.each))
        scalars = self._course.share(ranks)  # on every rank the same
        pl_module.log_dict(scalars, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        self._acting.look(trainer, self._course.alarm)

    # What ----------------------------------------------------------------------------------------------------------

    def _fit(self, trainer: Any, pl_module: Any) -> None:
        ranks = Ranks.of(trainer)
        with ranks.together():
            if self._prepared.held_out is None:
                fetch_validation_loaders(trainer)
            self._recording.sampled = self._drawing.described(trainer, pl_module)
            say(f"{self._recording.sampled}.")
            if self.background and ranks.first:
                self._line = Background(self.log_images)  # its process starts while training images are encoded
        self._prepared.fit(trainer, pl_module, self.n_samples)
        with ranks.together():
            if self._line is not None and self.detector is not None:
                self._line.give(self.detector)
        self._limit.expect(ranks.from_zero(self._prepared.seconds_each))

    def _catch_up(self, trainer: Any) -> None:
        self._prepared.catch_up(trainer, self._validations + trainer.current_epoch)

    def _score(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self._catch_up(trainer)
        samples = self._drawing.samples(trainer, pl_module)
        if samples is not None:  # on rank zero
            self._judge(trainer, samples)

    def _judge(self, trainer: Any, images: Tensor) -> None:
        if self.detector is None:
            raise StateError("needed a detector that was fitted at the start of fit; none is there.")
        when = trainer.current_epoch, trainer.global_step, logged_step(trainer)
        names = self._drawing.names(len(images))
        samples = Samples(images, *when, names, tuple(self._prepared.caveats), self.set_scores)
        if self._line is not None:
            self._line.give(self.detector)
            self._line.put(samples)
            if self._course.needs_key(trainer):
                self._fetch(trainer, 0)
            return
        with rng_kept(), torch.inference_mode(False), torch.no_grad(), self._limit.scoring(len(samples)):
            judged = judge(self.detector, samples, shows_progress(trainer))
        self._course.take(trainer, samples, judged, (lambda: self.closest_pairs(PICTURES)) if self.log_images else None)

    def _fetch(self, trainer: Any, most: int) -> None:
        if self._line is not None:
            self._course.fetch(trainer, self._line, most)

    def _end_line(self) -> Background | None:
        """End the process that scores beside training, where there is one, and forget it; what is left to fetch."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
        return line

    def closest_pairs(self, n: int) -> Tensor:
        """The n likeliest copies beside their matches, worst first: `(n, 1, size, 2 size)` in [0, 1]."""
        if self.scores is None or self.samples is None or self.detector is None:
            raise StateError("needed a scored validation; none was scored yet.")
        return closest_pairs(self.detector, self.samples, self.scores, n)
