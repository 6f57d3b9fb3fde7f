"""What is kept of a run and told about it: to loggers, in the report, and in a table at its end."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mi_callback.lightning.background.judging import Samples
from mi_callback.lightning.loggers import log_alarm, log_media, log_report, sends
from mi_callback.lightning.loggers.looks import Look, Shown, by_condition, copied
from mi_callback.lightning.loggers.names import ALONE, Names
from mi_callback.lightning.loggers.report import Report, in_words, report_folder, table
from mi_callback.lightning.messages import say, warn
from mi_callback.lightning.ranks import guarded
from mi_callback.scores import Scores

NOT_SCORED = "not scored"


class Recording:
    """Records validations; what fails here costs nothing that was found.

    Args:
        folder: Of the report; None for one beside the logs.
        subjects: Whether loggers get subject ids.
        lenient: Whether what fails is said, and no error.
        names: Under which things are logged.

    Attributes:
        looks: All validations of this run.
        sampled: What is sampled, in a line.
    """

    def __init__(self, folder: Any, subjects: bool, lenient: bool, names: Names = ALONE) -> None:
        self.asked, self.subjects, self.lenient = folder, subjects, lenient
        self.names, self.all_names = names, [names]
        self.looks: list[Look] = []
        self.sampled = ""
        self._report = Report(None)
        self._ended = False

    def begin(self, trainer: Any, stage: str) -> None:
        """A run begins."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        self.looks, self._report, self._ended = [], Report(None), False
        self.all_names = [one.names for one in trainer.callbacks if isinstance(getattr(one, "names", None), Names)]
        self._tried("the report", trainer, lambda: self._open(trainer))

    def last(self) -> dict[str, Any]:
        """What a checkpoint says of the last validation, in plain types."""
        if not self.looks:
            return {}
        look = self.looks[-1]
        return {"epoch": look.epoch, "verdict": look.verdict, "summary": dict(look.summary)}

    def look(
        self,
        trainer: Any,
        samples: Samples,
        scores: Scores,
        summary: dict[str, float],
        sources: Sequence[str] | None,
        pairs: Callable[[], Tensor] | None,
        raised: bool,
    ) -> None:
        """A validation was scored.

        Args:
            samples: Which.
            scores: Of them.
            summary: The scalars.
            sources: Files of training images, which stay on this machine.
            pairs: Makes the pictures to send; None for none.
            raised: Whether the alarm was raised now.
        """
        groups, reason = by_condition(scores, samples.names), " · ".join(scores.doubts)
        epoch, step = samples.epoch, samples.logged_step
        self.looks.append(Look(epoch, step, dict(summary), str(scores.verdict), reason, copied(scores), groups))
        self._tried("the report", trainer, lambda: self._report.note(epoch, scores, sources))
        shown: list[Tensor] = []
        if pairs is not None:
            self._tried("pictures", trainer, lambda: shown.append(pairs()))
        for logger in trainer.loggers:
            name = f"{type(logger).__name__} did not take pictures and tables"
            picture = shown[0] if shown else None
            self._tried(name, trainer, partial(self._send, logger, scores, step, picture))
            if raised:
                self._tried("the alert", trainer, partial(log_alarm, logger, self.looks[-1], self.names))

    def log(self, trainer: Any, samples: Samples, scalars: dict[str, float]) -> None:
        """Send the scalars of an earlier validation to every logger, at its own step."""
        for logger in trainer.loggers:
            send = partial(logger.log_metrics, scalars | {"epoch": samples.epoch}, samples.logged_step)
            self._tried(f"{type(logger).__name__} did not take scalars", trainer, send)

    def skip(self, trainer: Any, problem: Exception, epoch: int, step: int) -> None:
        """A validation was not scored."""
        said = self._in_words(trainer, problem)
        self.looks.append(Look(epoch, step, {}, NOT_SCORED, said))
        warn(f"not scored at epoch {epoch}: {said}")

    def end(self, trainer: Any) -> None:
        """The run ends: verdicts in a table, the report and where it is; once, though an error may follow the end."""
        if self._ended:
            return
        self._ended = True
        missed = [look for look in self.looks if not look.scored]
        if missed:
            last = f"epoch {missed[-1].epoch}: {missed[-1].reason}"
            warn(f"{len(missed)} validations were not scored, the last at {last}")
        if not self.looks:
            return
        self._tried("the table", trainer, lambda: say(f"the run\n{table(self.looks)}", self.names.said))
        self._tried("the report", trainer, lambda: self._write(trainer))

    def _open(self, trainer: Any) -> None:
        self._report = Report(report_folder(self.asked, trainer, self.names.base))

    def _write(self, trainer: Any) -> None:
        files = self._report.write(self.looks, self.sampled)
        if not files:
            return
        private = sends(trainer.loggers)
        where = f"{self.names.base}/ beside the logs" if private and self.asked is None else self._report.folder
        say(f"the report is in {where}.")
        for logger in trainer.loggers:
            self._tried(
                f"{type(logger).__name__} did not take the report",
                trainer,
                partial(log_report, logger, files, self.names),
            )

    def _send(self, logger: Any, scores: Scores, step: int, pairs: Tensor | None) -> None:
        log_media(logger, Shown(scores, step, self.subjects, pairs, self.looks, self.names, self.all_names))

    def _tried(self, what: str, trainer: Any, work: Callable[[], object]) -> None:
        problem = guarded(work)
        if problem is None:
            return
        if not self.lenient:
            raise problem
        said = what if "did not" in what else f"{what} could not be made"
        warn(f"{said}: {self._in_words(trainer, problem)}")

    def _in_words(self, trainer: Any, problem: Exception) -> str:
        private, path = sends(trainer.loggers), None
        if private:
            try:
                path = self._report.note_error(trainer.current_epoch, problem)
            except Exception:
                path = None
        return in_words(problem, private, path)
