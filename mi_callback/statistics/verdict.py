"""Clean, memorized or inconclusive: when flags are more than chance, and what speaks against saying so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mi_callback.statistics.conformal import round_down, round_up
from mi_callback.statistics.flagging import Flagging
from mi_callback.statistics.multiplicity import reject
from mi_callback.statistics.null import subjects_needed
from mi_callback.statistics.power import Power
from mi_callback.statistics.target_decoy import TargetDecoy

LEVEL = 0.05
"""Probability with which independent novel images are called memorized, at most."""

DECISIVE = LEVEL / 5
"""A target-decoy contrast counts where the flagged people, all trained on, would give it a p-value as small: few people
cannot."""


FAR = -2.0
"""Median MI below which samples are too unlike real images for their novelty to mean anything."""


class Verdict(StrEnum):
    """What may be said of a set of samples."""

    CLEAN = "clean"
    MEMORIZED = "memorized"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Findings:
    """All that a verdict rests on, in numbers.

    Attributes:
        flagging: p-values, flags and the null.
        mi_median: Median of the Memorization Index of the samples.
        like_copies: Images that resemble their match as only copies do, far beyond the null.
        matched_subjects: Training subjects that flagged images match.
        power: What the detector found of planted copies; None where it was not measured.
        target_decoy: Whether samples are closer to training than to held-out people; None where it was not asked for.
        control: The same samples against people who were certainly not trained on; None where there are none.
        caveats: Why the samples may copy what they are not compared with: then nothing reads as clean.
    """

    flagging: Flagging
    mi_median: float = 0.0
    like_copies: int = 0
    matched_subjects: int = 0
    power: Power | None = None
    target_decoy: TargetDecoy | None = None
    control: Flagging | None = None
    caveats: Sequence[str] = ()


def verdict(findings: Findings) -> Verdict:
    """`memorized`: more distinct flags than novel images would get (5 % level). `clean`: no evidence of it, and no
    proof of its absence. `inconclusive`: there are `doubts`.

    Example:
        >>> from mi_callback.statistics.flagging import FlagRule, NullSummary
        >>> null = NullSummary("held_out", n_subjects=60, n_images=60)
        >>> p_value = torch.tensor([0.02] * 6 + [0.5] * 14, dtype=torch.float64)
        >>> flagging = Flagging(p_value, FlagRule().flag(p_value), torch.arange(20), FlagRule(), null)
        >>> str(verdict(Findings(flagging)))
        'memorized'
    """
    if doubts(findings):
        return Verdict.INCONCLUSIVE
    return Verdict.MEMORIZED if exceeds_chance(findings.flagging) else Verdict.CLEAN


def exceeds_chance(flagging: Flagging) -> bool:
    """Whether more distinct images are flagged than novel ones would be, or under `fdr` any for sure.

    Example:
        >>> from mi_callback.statistics.flagging import FlagRule, NullSummary
        >>> null = NullSummary("held_out", n_subjects=60, n_images=60)
        >>> p_value = torch.tensor([0.02] * 6 + [0.5] * 14, dtype=torch.float64)
        >>> flagging = Flagging(p_value, FlagRule().flag(p_value), torch.arange(20), FlagRule(), null)
        >>> exceeds_chance(flagging)
        True
    """
    rule = flagging.rule
    if rule.fdr is not None:
        return bool(reject(flagging.p_value, min(rule.fdr, LEVEL), rule.procedure).any())
    return flagging.chance() <= LEVEL


def more_than_control(flagging: Flagging, control: Flagging) -> float:
    r"""p-value of McNemar's exact test, one-sided: are more images flagged against training people than against others?

    Of images that are flagged against one side alone, a novel one is as likely flagged against either.

    .. math:: p = P(X \ge b), \quad X \sim \mathrm{Bin}(b + c, 1/2)

    b of them are flagged against training people alone, c against the others. Near-duplicates count once.

    Args:
        flagging: Against the training set.
        control: The same images against people who were not trained on.

    References:
        McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 1947.

    Example:
        >>> from mi_callback.statistics.flagging import FlagRule, NullSummary
        >>> null = NullSummary("held_out", n_subjects=60, n_images=60)
        >>> ours, others = (torch.tensor([p] * 6 + [0.5] * 14, dtype=torch.float64) for p in (0.02, 0.5))
        >>> sides = [Flagging(p, FlagRule().flag(p), torch.arange(20), FlagRule(), null) for p in (ours, others)]
        >>> more_than_control(*sides)
        0.015625
    """
    _, group = flagging.group.unique(return_inverse=True)
    ones = group.new_ones(int(group.max()) + 1 if len(group) else 0).double()
    size = (0 * ones).index_add(0, group, ones.new_ones(len(group)))

    def alone(flagged: Flagging, others: Flagging) -> float:
        here = (flagged.flagged & ~others.flagged).double()
        return float(((0 * ones).index_add(0, group, here) / size).sum())

    ours, theirs = round_down(alone(flagging, control)), round_up(alone(control, flagging))
    total = ours + theirs
    return sum(math.comb(total, k) for k in range(ours, total + 1)) / 2**total


def doubts(findings: Findings) -> list[str]:
    """Why neither clean nor memorized can be said; empty where one of them can.

    Example:
        >>> from mi_callback.statistics.flagging import FlagRule, NullSummary
        >>> few = NullSummary("held_out", n_subjects=5, n_images=5)
        >>> p_value = torch.full((20,), 0.5, dtype=torch.float64)
        >>> flagging = Flagging(p_value, FlagRule().flag(p_value), torch.arange(20), FlagRule(), few)
        >>> doubts(Findings(flagging))
        ['to flag a single image at 0.05 needs at least 19 held-out subjects']
    """
    if reason := undecidable(findings.flagging):
        return [reason]
    return _of_memorized(findings) if exceeds_chance(findings.flagging) else _of_clean(findings)


def alarm(findings: Findings, look: int, risk: float = LEVEL) -> bool:
    """Whether look number `look` (from 1) at a run shows more flags than a whole run without memorization would.

    As the p-values, it takes novel samples to resemble real images of other people; a target-decoy contrast that sees
    no copying where it could silences it, and so does a control. False where nothing can be flagged.

    Example:
        >>> from mi_callback.statistics.flagging import FlagRule, NullSummary
        >>> null = NullSummary("held_out", n_subjects=60, n_images=60)
        >>> p_value = torch.tensor([0.02] * 12 + [0.5] * 8, dtype=torch.float64)
        >>> flagging = Flagging(p_value, FlagRule().flag(p_value), torch.arange(20), FlagRule(), null)
        >>> alarm(Findings(flagging), look=1), alarm(Findings(flagging), look=1000)
        (True, False)
    """
    if not findings.flagging.calibrated or _contrast_objects(findings) or _control_objects(findings):
        return False
    return findings.flagging.exceeds_a_run(look, risk)


def undecidable(flagging: Flagging) -> str | None:
    """Why these numbers can decide nothing; None where they can.

    Example:
        >>> from mi_callback.statistics.flagging import FlagRule, NullSummary
        >>> few = NullSummary("held_out", n_subjects=5, n_images=5)
        >>> p_value = torch.full((20,), 0.5, dtype=torch.float64)
        >>> undecidable(Flagging(p_value, FlagRule().flag(p_value), torch.arange(20), FlagRule(), few))
        'to flag a single image at 0.05 needs at least 19 held-out subjects'
    """
    null = flagging.null
    if not bool(flagging.p_value.isfinite().all()):
        return "some p-values are not finite"
    if null.kind == "train_halves":
        return "the train_halves null is not calibrated"
    if not flagging.resolvable:
        needed, of = subjects_needed(flagging.level, null.kind), null.kind.replace("held_out", "held-out")
        return f"to flag a single image at {flagging.level:.3g} needs at least {needed} {of} subjects"
    if null.difference is not None:
        return null.difference
    if flagging.rule.fdr is None and flagging.least_chance > LEVEL:
        return f"too few distinct images ({flagging.n_distinct}) for any number of flags to be more than chance"
    return None


def _of_clean(findings: Findings) -> list[str]:
    flagging, power, null = findings.flagging, findings.power, findings.flagging.null
    found = list(findings.caveats)
    if findings.mi_median < FAR:
        found.append(
            f"too early to judge: the samples are far from real images (MI median {findings.mi_median:.1f}), "
            "blurred or noisy; train on, or look at the sampler"
        )
    if flagging.rule.fdr is not None and flagging.count:
        found.append(f"with probability up to {flagging.rule.fdr:g} all {flagging.count} flags are false")
    elif flagging.rule.fdr is None and flagging.chance(distinct=False) <= LEVEL:
        found.append(
            f"{flagging.count} flagged images are more than chance explains, but near-duplicates count once, and "
            f"{flagging.distinct_at(flagging.rule.alpha)[0]} of {flagging.n_distinct} distinct ones are not: one image "
            f"copied again and again, or drawn again and again ({findings.matched_subjects} training subjects match)"
        )
    if findings.like_copies:
        found.append(
            f"{findings.like_copies} images resemble a training image as only copies do, too few for their "
            "number to be proof: look at the pairs"
        )
    if power is not None and not power.sees_copies:
        found.append(f"the detector finds {power.overall:.0%} of planted copies: it would not see memorization")
    if null.suspects:
        found.append(
            f"{null.suspects} people of the null resemble training images as only copies do: if they were "
            "trained on, copies look normal"
        )
    if findings.control is not None and _strange(findings.control):
        found.append(
            f"{findings.control.count} images are flagged against people who were not trained on, more than chance "
            "explains: the samples differ from real images, and nothing can be said of them"
        )
    if findings.target_decoy is not None and findings.target_decoy.p_value <= LEVEL:
        found.append(
            "images are closer to training than to held-out subjects, yet no more are flagged than novel ones would "
            "be: a few copies, or copies that noise or blur hides? Look at the closest pairs"
        )
    return found


def _of_memorized(findings: Findings) -> list[str]:
    found = []
    if _contrast_objects(findings):
        found.append(
            "flagged images are as close to held-out as to training subjects: the samples differ from real images (too "
            "smooth?), rather than copy"
        )
    if findings.control is not None and _control_objects(findings):
        found.append(
            f"{findings.control.count} images are flagged against people who were not trained on, and hardly more "
            f"({findings.flagging.count}) against the training set: the samples differ from real images, not copy"
        )
    return found


def _contrast_objects(findings: Findings) -> bool:
    """Whether the target-decoy contrast sees no copying where it could have."""
    contrast = findings.target_decoy
    return contrast is not None and contrast.p_value > LEVEL and contrast.least <= DECISIVE


def _control_objects(findings: Findings) -> bool:
    """Whether people who were not trained on are copied too, it seems, and hardly less."""
    control = findings.control
    return control is not None and _strange(control) and more_than_control(findings.flagging, control) > LEVEL


def _strange(control: Flagging) -> bool:
    """Whether more is flagged against a control than chance explains."""
    return control.calibrated and exceeds_chance(control)
