"""What was found in a run up to now: scores, the scalars that are logged, and the alarm, which counts every look."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from mi_callback.lightning.background.judging import Judged, Samples
from mi_callback.lightning.background.line import Background
from mi_callback.lightning.loggers import logged_step
from mi_callback.lightning.messages import say, say_scores
from mi_callback.lightning.preparing import Preparation
from mi_callback.lightning.ranks import Ranks
from mi_callback.lightning.recording import Recording
from mi_callback.scores import Scores
from mi_callback.statistics.flagging import NullSummary


class Record(NamedTuple):
    """A scored validation."""

    epoch: int
    step: int
    scores: Scores


class Course:
    """Takes on what is found of samples, in the order in which they were drawn; on rank zero.

    Args:
        prepared: Has the detector.
        recording: Keeps and tells it.
        n_samples: Samples that are asked for.

    Attributes:
        scores: Of the last scored validation; None before.
        samples: The images they belong to, as of the callback.
        history: All scored validations.
        summary: The scalars of this validation, without their prefix.
        looks: Scored validations of the run, with those before a resume.
        alarmed: Whether the alarm was raised.
    """

    def __init__(self, prepared: Preparation, recording: Recording, n_samples: int) -> None:
        self._prepared, self._recording, self._n_samples = prepared, recording, n_samples
        self.scores: Scores | None = None
        self.samples: Tensor | None = None
        self.history: list[Record] = []
        self.begin()

    def begin(self) -> None:
        """Another run."""
        self.summary: dict[str, float] = {}
        self.looks, self.alarmed = 0, False

    @property
    def alarm(self) -> bool:
        """Whether the alarm is raised, of a null by which it can be."""
        return bool(self.summary.get("alarm"))

    @property
    def scalars(self) -> dict[str, float]:
        """The scalars of this validation, as they are logged."""
        return {self._recording.names.scalar(key): value for key, value in self.summary.items()}

    def take(self, trainer: Any, samples: Samples, judged: Judged, pairs: Callable[[], Tensor] | None) -> None:
        """Samples were scored.

        Args:
            trainer: Whose loggers are told.
            samples: Which.
            judged: What was found.
            pairs: Makes the pictures to send; None for none.
        """
        assert self._prepared.detector is not None
        scores, epoch, said = judged.scores, samples.epoch, self._recording.names.said
        self.samples, self.scores = samples.images, scores
        self.looks += 1
        before = self.alarmed
        self.alarmed = before or scores.alarm(self.looks)
        self.summary = dict(judged.summary)
        if scores.flagging.calibrated:
            self.summary["alarm"] = float(self.alarmed)
        self.history.append(Record(epoch, samples.step, scores))
        say_scores(scores, epoch, self._n_samples, said)
        raised = scores.flagging.calibrated and self.alarmed and not before
        if raised:
            say(f"alarm raised at epoch {epoch}.", said)
        sources = self._prepared.detector.state.train.sources
        self._recording.look(trainer, samples, scores, self.summary, sources, pairs, raised)

    def fetch(self, trainer: Any, line: Background, most: int, over: bool = False) -> None:
        """Take on what was scored beside training: all that is ready, and all but the last `most` validations.

        Where several were, loggers are sent the scalars of all; the Trainer logs those of the last one.

        Args:
            trainer: Whose loggers are told.
            line: In which they are.
            most: Validations that may stay in it.
            over: Whether training is over, and the Trainer logs nothing any more.

        Raises:
            Exception: What failed in scoring, unless it is only to be said.
        """
        if over and line.busy:
            say(f"training is over; {line.busy} of its validations are still being scored.", self._recording.names.said)
        fetched = list(line.fetch(most))
        for place, one in enumerate(fetched, start=1):
            if isinstance(one.found, Judged):
                self.take(trainer, one.samples, one.found, one.pairs)
                if over or place < len(fetched):
                    self._recording.log(trainer, one.samples, self.scalars)
            elif self._recording.lenient:
                self._recording.skip(trainer, one.found, one.samples.epoch, one.samples.logged_step)
            else:
                raise one.found

    def told(self) -> dict[str, Any]:
        """What a checkpoint says, in plain types."""
        return {"alarm": self.alarmed, "looks": self.looks, **self._recording.last()}

    def skip(self, trainer: Any, problem: Exception) -> None:
        """This validation is not scored, and that is said."""
        self._recording.skip(trainer, problem, trainer.current_epoch, logged_step(trainer))

    def clear(self) -> None:
        """The scalars of a validation of which nothing is known: it is no zero, which would read as clean."""
        self.summary = {"scored": 0.0, "n_scored": 0.0}
        detector = self._prepared.detector
        if detector is None or not detector.fitted:
            return
        if NullSummary.of(detector.state.null, detector.state.difference).calibrated(detector.rule.alpha):
            self.summary["alarm"] = float(self.alarmed)

    def share(self, ranks: Ranks) -> dict[str, float]:
        """The scalars, on every rank: a key that only rank zero has is hidden from ModelCheckpoint."""
        self.summary, self.looks, self.alarmed = ranks.from_zero((self.summary, self.looks, self.alarmed))
        return self.scalars

    def needs_key(self, trainer: Any) -> bool:
        """Whether somebody, who may stop where it is missing, monitors a scalar of ours that was not logged yet."""
        monitored = {getattr(one, "monitor", None) for one in trainer.callbacks}
        monitored |= {config.monitor for config in trainer.lr_scheduler_configs}
        ours = {key for key in monitored if isinstance(key, str) and key.startswith(f"{self._recording.names.base}/")}
        return not ours <= {*trainer.callback_metrics, *self.scalars}
