"""Samples of a validation → what was found of them; in training, or in a process of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mi_callback.detector import MemorizationDetector
from mi_callback.lightning.loggers.looks import band
from mi_callback.scores import Scores


@dataclass(frozen=True)
class Samples:
    """What is scored at a validation.

    Attributes:
        images: `(n, c, *spatial)`, on the CPU.
        epoch, step: When they were drawn.
        logged_step: Step at which loggers have that validation.
        names: What each was drawn for; None for nothing.
        caveats: Why they may copy what they are not compared with.
        set_scores: Whether set-level scores are asked for.
    """

    images: Tensor
    epoch: int
    step: int
    logged_step: int
    names: Sequence[str] | None = None
    caveats: Sequence[str] = ()
    set_scores: bool = False

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Judged:
    """What was found of samples.

    Attributes:
        scores: Of each.
        summary: The scalars that are logged, but for the alarm.
    """

    scores: Scores
    summary: dict[str, float]


def judge(detector: MemorizationDetector, samples: Samples, progress: bool = False) -> Judged:
    """Score samples.

    Raises:
        DataError: As `MemorizationDetector.score`.
    """
    scores = replace(detector.score(samples.images, progress=progress), caveats=tuple(samples.caveats))
    others = detector.set_scores(samples.images) if samples.set_scores else {}
    # Loggers lose NaN without a word: a set-level score that is undefined for these samples is left out.
    summary = scores.summary() | {key: value for key, value in others.items() if value == value}
    summary |= band(scores, detector.state.null) | {"scored": 1.0, "n_scored": float(len(samples))}
    return Judged(scores, summary)
