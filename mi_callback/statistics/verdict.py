"""Clean, memorized or inconclusive: when flags are more than chance, and what speaks against saying so."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mi_callback.statistics.conformal import ROUNDING
from mi_callback.statistics.multiplicity import reject
from mi_callback.statistics.null import smallest_p, subjects_needed
from mi_callback.statistics.rates import false_flags

if TYPE_CHECKING:
    from mi_callback.scores import Scores

LEVEL = 0.05
"""Probability with which independent novel images are called memorized, at most."""

DECISIVE = LEVEL / 5
"""A contrast counts where the flagged people, all trained on, would give it a p-value as small: few people cannot."""


def says_memorized(scores: "Scores") -> bool:
    """Whether more distinct images are flagged than novel ones would be, or under `fdr` any for sure."""
    if scores.fdr is not None:
        return bool(reject(scores.p_value, min(scores.fdr, LEVEL), scores.procedure).any())
    return _chance(scores, scores.distinct_flags) <= LEVEL


def doubts(scores: "Scores") -> list[str]:
    """Why neither clean nor memorized can be said; empty where one of them can."""
    if not bool(scores.p_value.isfinite().all()):
        return ["some p-values are not finite"]
    if scores.null_kind == "train_halves":
        return ["the train_halves null is not calibrated"]
    if not scores.resolvable:
        needed, of = subjects_needed(scores.level, scores.null_kind), scores.null_kind.replace("held_out", "held-out")
        return [f"to flag a single image at {scores.level:.3g} needs at least {needed} {of} subjects"]
    if scores.fdr is None and _chance(scores, lambda level: (scores.n_distinct, scores.n_distinct)) > LEVEL:
        return [f"too few distinct images ({scores.n_distinct}) for any number of flags to be more than chance"]
    return _of_memorized(scores) if says_memorized(scores) else _of_clean(scores)


def alarm(scores: "Scores", look: int, risk: float) -> bool:
    """Whether this look at a run shows more distinct flags than a whole run without memorization would."""
    if not scores.calibrated or _contrast_objects(scores):
        return False
    levels = _levels(scores)

    def raised(level: float) -> bool:
        flagged, n = scores.distinct_flags(level)
        null = scores.null_subjects, scores.several_each
        return false_flags.alarm(flagged, n, look, level, *null, risk=risk / len(levels), kind=scores.null_kind)

    return any(raised(level) for level in levels)


def _of_clean(scores: "Scores") -> list[str]:
    found = []
    if scores.fdr is not None and scores.n_flagged:
        found.append(f"with probability up to {scores.fdr:g} all {scores.n_flagged} flags are false")
    elif scores.fdr is None and _chance(scores, scores.flags) <= LEVEL:
        found.append(
            f"{scores.n_flagged} flagged images are more than chance explains, but near-duplicates count once, and "
            f"{scores.distinct_flags(scores.alpha)[0]} of {scores.n_distinct} distinct ones are not: one image copied "
            f"again and again, or drawn again and again ({scores.matched_subjects} training subjects match)"
        )
    if scores.like_copies is not None and bool(scores.like_copies.any()):
        found.append(
            f"{int(scores.like_copies.sum())} images resemble a training image as only copies do, too few for their "
            "number to be proof: look at the pairs"
        )
    if scores.power is not None and not scores.power.sees_copies:
        found.append(f"the detector finds {scores.power.overall:.0%} of planted copies: it would not see memorization")
    if scores.null_suspects:
        found.append(
            f"{scores.null_suspects} people of the null resemble training images as only copies do: if they were "
            "trained on, copies look normal"
        )
    if scores.contrast is not None and scores.contrast.p_value <= LEVEL:
        found.append(
            "images are closer to training than to held-out subjects, yet no more are flagged than novel ones would "
            "be: a few copies, or copies that noise or blur hides? Look at the closest pairs"
        )
    return found


def _of_memorized(scores: "Scores") -> list[str]:
    if scores.contrast is None or not _contrast_objects(scores):
        return []
    return [
        "flagged images are as close to held-out as to training subjects: the samples differ from real images (too "
        "smooth?), rather than copy"
    ]


def _contrast_objects(scores: "Scores") -> bool:
    """Whether the contrast sees no copying where it could have."""
    return scores.contrast is not None and scores.contrast.p_value > LEVEL and scores.contrast.least <= DECISIVE


def _levels(scores: "Scores") -> list[float]:
    """Levels at which flags are counted: alpha, and if it is much smaller the least that the null resolves.

    Many copies show at alpha, few but clear ones among the images beyond the whole null.
    """
    least = smallest_p(scores.null_subjects, scores.null_kind)
    return [scores.alpha] if 2 * least > scores.alpha + ROUNDING else [least, scores.alpha]


def _chance(scores: "Scores", count: Callable[[float], tuple[int, int]]) -> float:
    """Probability of so many flags, at either level, among novel images; `count` gives flags and images at a level."""
    subjects, several, kind = scores.null_subjects, scores.several_each, scores.null_kind
    p_values = [false_flags.excess_p_value(*count(level), level, subjects, several, kind) for level in _levels(scores)]
    # A p-value that is LEVEL up to rounding is LEVEL.
    return len(p_values) * min(p_values) - ROUNDING
