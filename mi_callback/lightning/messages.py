"""What a user reads while training: one line a validation, a line for each doubt, and no file name and no id."""

import logging
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from mi_callback.detector import MemorizationDetector
from mi_callback.lightning.keeping_up import TrainingReference
from mi_callback.lightning.loggers.names import BASE
from mi_callback.scores import Scores
from mi_callback.statistics.null import smallest_p, subjects_needed
from mi_callback.statistics.power import Power

SHORT = 10
"""Seconds that are not worth a line."""

log = logging.getLogger("mi_callback")
"""Takes the long lines: `logging.getLogger("mi_callback").setLevel("INFO")` shows them."""


def shows_progress(trainer: Any) -> bool:
    """Whether long work has a progress bar: where training has one."""
    return getattr(trainer, "progress_bar_callback", None) is not None


def say(text: str, who: str = BASE) -> None:
    """A line of information, on rank zero."""
    rank_zero_info(f"{who}: {text}")


def warn(text: str) -> None:
    """A warning, on rank zero."""
    rank_zero_warn(f"memorization: {text}")


def say_scores(scores: Scores, epoch: int, asked: int, who: str = BASE) -> None:
    """The headline, and the doubts one a line; all that is known goes to `log`."""
    say(f"epoch {epoch}: {scores.headline}", who)
    if len(scores) < asked:
        say(
            f"epoch {epoch}: {len(scores)} of {asked} samples are scored, for there was no time for more, or no more.",
            who,
        )
    for doubt in scores.doubts:
        rank_zero_info(f"  {doubt}")
    log.info("epoch %d: %s", epoch, scores)


def say_fitted(detector: MemorizationDetector, stored: bool, n_samples: int) -> None:
    """Both sides in numbers, and what the null cannot tell."""
    train, null = detector.state.train, detector.state.null
    unit = "subjects" if null.subjects is not None else "images, each taken as its own subject (no ids found)"
    of = f" of {len(set(train.subjects))} subjects" if train.subjects is not None else ""
    unsure = null.kind == "held_out" and (null.subjects is None or train.subjects is None)
    say(
        f"{'loaded' if stored else 'encoded'} {len(train)} training images{of} with {detector.encoder.name!r}; "
        f"{null.kind} null of {len(null.similarity)} images, {null.n_subjects} {unit}"
        f"{'; that no held-out person was trained on cannot be checked' if unsure else ''}."
    )
    if detector.measured_power is not None and null.resolves(detector.rule.alpha):
        _say_power(detector.measured_power)
    _warn_of_levels(detector, unit, n_samples)


def say_randomness(reference: TrainingReference, cache: object) -> None:
    """Warn where training images change whenever they are read, and what that did to the cache."""
    if reference.random:
        warn(
            "the training set changes its images at random, so copies are looked for among one draw of each"
            f"{', and the cache is not used' if cache else ''}. Pass it without augmentation: "
            "MemorizationCallback(train=…)."
        )
    if reference.not_loaded:
        say(f"the cache is not used: {reference.not_loaded}")
    if reference.reused:
        say(f"of the training images {reference.reused} were encoded before, and are read from the cache.")
    if reference.not_stored:
        warn(f"the cache was not written, and training goes on without it: {reference.not_stored}")


def say_cost(images: int, seconds: float) -> None:
    """What encoding the training images will take, as the first batches tell, where it is worth a line."""
    if seconds >= SHORT:
        say(f"features of {images} training images: about {in_time(seconds)}.")


def in_time(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> in_time(50), in_time(70), in_time(5000)
        ('50 seconds', '1 minute', '1.4 hours')
    """
    if seconds < 60:
        return f"{round(seconds)} seconds"
    minutes = round(seconds / 60)
    return f"{seconds / 3600:.1f} hours" if minutes >= 60 else f"{minutes} minute{'s' * (minutes > 1)}"


def _warn_of_levels(detector: MemorizationDetector, unit: str, n_samples: int) -> None:
    null, alpha, fdr = detector.state.null, detector.rule.alpha, detector.rule.fdr
    if fdr is not None and not null.resolves(fdr / n_samples):
        one, ten = (subjects_needed(k * fdr / n_samples, null.kind) for k in (1, 10))
        warn(
            f"at a false discovery rate of {fdr:g} among {n_samples} samples one copy alone needs {one} {unit} in the "
            f"null, ten copies need {ten}; there are {null.n_subjects}. Without any flag the result is inconclusive."
        )
    level = alpha if fdr is None else fdr
    if not null.resolves(level):
        warn(
            f"inconclusive. With {null.n_subjects} {unit} in the {null.kind} null no p-value is below "
            f"{smallest_p(null.n_subjects, null.kind):.3g}, so nothing can be flagged at {level:g}. Provide at least "
            f"{subjects_needed(level, null.kind)}, or raise the level. MI is logged; counts are not."
        )


def _say_power(power: Power) -> None:
    missed = f"; missed: {', '.join(power.missed)}" if power.missed else ""
    say(
        f"power self-test: of copies of {power.n} training images, changed in {len(power.flagged)} ways, "
        f"{power.overall:.0%} are flagged{missed}."
    )
    if not power.sees_copies:
        warn(
            f"the detector flags {power.overall:.0%} of planted copies, so it never says clean. Give it an encoder "
            "that suits these images, or a higher alpha: detector={'encoder': …}."
        )
