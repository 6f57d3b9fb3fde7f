"""What a validation says, in plain numbers: for loggers, curves, tables and the report at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mi_callback.lightning.loggers.names import ALONE, Names
from mi_callback.scores import Scores
from mi_callback.statistics.null import Null

LOW, HIGH = 0.05, 0.95
"""Quantiles between which a band is drawn."""


@dataclass(frozen=True)
class Look:
    """A validation that was scored, or was not.

    Attributes:
        epoch, step: When.
        summary: The scalars that were logged, without their prefix; empty where it was not scored.
        verdict: In a word; `not scored` where it was not.
        reason: Why not, or why so.
        copied: Flagged samples of each person they match, most copied first, without their names.
        groups: Name, samples and flagged samples of each condition; empty without conditions.
    """

    epoch: int
    step: int
    summary: dict[str, float]
    verdict: str
    reason: str = ""
    copied: Sequence[int] = ()
    groups: Sequence[tuple[str, int, int]] = field(default=())

    @property
    def scored(self) -> bool:
        """Whether there are scores."""
        return bool(self.summary)


@dataclass(frozen=True)
class Shown:
    """What loggers are given of a validation.

    Attributes:
        scores: Of this validation.
        step: Global step.
        subjects: Whether training subject ids go into the table.
        pairs: Images to show, generated beside match, `(k, 1, h, w)` in [0, 1], in the order of `scores.closest`; only
            when the user asked for pixels to be logged.
        looks: All validations so far, for curves; the last is this one.
        names: Under which it is logged.
        all_names: Those of all callbacks of the Trainer; these alone when empty.
    """

    scores: Scores
    step: int
    subjects: bool = False
    pairs: Float[Tensor, "k 1 h w"] | None = None
    looks: Sequence[Look] = ()
    names: Names = ALONE
    all_names: Sequence[Names] = ()


def band(scores: Scores, null: Null) -> dict[str, float]:
    """The ends of the band in which MI lies, and of that in which MI of the null does: real images not trained on."""
    spread = (null.similarity - null.mean) / null.std
    return {
        "mi_p05": scores.mi.quantile(LOW).item(),
        "null_mi_p05": _weighted_quantile(spread, null.weights, LOW),
        "null_mi_p95": _weighted_quantile(spread, null.weights, HIGH),
    }


def worst(looks: Sequence[Look]) -> Look | None:
    """The validation with the most flags, and of several the one with the largest MI; None without any."""
    scored = [look for look in looks if look.scored]
    if not scored:
        return None
    return max(scored, key=lambda look: (look.summary.get("flagged", 0.0), look.summary["mi_p95"]))


def untested(scores: Scores) -> str:
    """Which checks were not made, in words for people; empty where all were."""
    made = {"power": scores.power, "contrast": scores.target_decoy, "control": scores.control}
    return ", ".join(name for name, check in made.items() if check is None)


def copied(scores: Scores) -> list[int]:
    """Flagged samples of each person that they match, or training image without ids; most copied first."""
    known, counts = scores.images.subjects_known, dict[object, int]()
    for i in scores.flagged.nonzero().flatten().tolist():
        who = scores.match_subject[i] if known else int(scores.match[i])
        counts[who] = counts.get(who, 0) + 1
    return sorted(counts.values(), reverse=True)


def by_condition(scores: Scores, names: Sequence[str] | None) -> list[tuple[str, int, int]]:
    """Name, samples and flagged samples of each condition, in the order of names.

    Args:
        scores: Of the samples.
        names: The condition of each sample; None for no conditions.
    """
    if names is None:
        return []
    flags = scores.flagged.tolist()
    groups = {name: [flag for flag, own in zip(flags, names, strict=True) if own == name] for name in set(names)}
    return [(name, len(groups[name]), sum(groups[name])) for name in sorted(groups, key=_in_order)]


def _weighted_quantile(values: Float[Tensor, " m"], weights: Float[Tensor, " m"], level: float) -> float:
    order = values.argsort()
    share = weights[order].cumsum(0) / weights.sum()
    return float(values[order][int((share >= level - 1e-12).nonzero()[0])])


def _in_order(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
