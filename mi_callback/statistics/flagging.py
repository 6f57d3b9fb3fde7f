"""p-values → flags, and what their number says: counts, expected false flags, limits of the share of copies."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.arguments import probability
from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import ROUNDING, at_most, round_down, round_up
from mi_callback.statistics.duplicates import distinct_flags
from mi_callback.statistics.multiplicity import Procedure, reject
from mi_callback.statistics.null import Null, NullKind, smallest_p
from mi_callback.statistics.power import Power
from mi_callback.statistics.rates import false_flags
from mi_callback.statistics.rates.certificates import Certificate, certify
from mi_callback.statistics.rates.copies import RateInterval, memorization_rate


@dataclass(frozen=True)
class FlagRule:
    """When an image is flagged as a copy.

    Attributes:
        alpha: Level of each flag: the share of novel images that may be flagged.
        fdr: False discovery rate of the flags, if they are chosen by it instead.
        procedure: How: `bh` (Benjamini-Hochberg) or `by` (Benjamini-Yekutieli).

    Raises:
        CalibrationError: If a level is not between 0 and 1, or a procedure is chosen without a rate.
    """

    alpha: float = 0.05
    fdr: float | None = None
    procedure: Procedure = Procedure.BH

    def __post_init__(self) -> None:
        probability("alpha", self.alpha, CalibrationError)
        if self.fdr is not None:
            probability("fdr", self.fdr, CalibrationError)
        elif self.procedure is not Procedure.BH:
            raise CalibrationError(
                f"needed fdr=… for procedure={str(self.procedure)!r}; none came: without it each flag has level alpha."
            )

    def flag(self, p_value: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which images are flagged: those with p ≤ alpha, or those rejected at the false discovery rate."""
        if self.fdr is None:
            return at_most(p_value, self.alpha)
        return reject(p_value, self.fdr, self.procedure)


@dataclass(frozen=True)
class NullSummary:
    """What p-values were compared with.

    Attributes:
        kind: How the null was made.
        n_subjects: Subjects G in it; no p-value is below 1 / (G + 1), of a cross-fitted null 2 / (G + 1).
        n_images: Images in it.
        subjects_known: Whether their subjects are known; else every image counts as its own subject.
        suspects: People in it who resemble training images as only copies do.
        difference: In what its images differ from training images, so that it says nothing of samples that are like
            these; None where they do not.
        quality: What was done to its images to make them as sharp and noisy as the samples; None where they are.
    """

    kind: NullKind
    n_subjects: int
    n_images: int
    subjects_known: bool = True
    suspects: int = 0
    difference: str | None = None
    quality: str | None = None

    @classmethod
    def of(cls, null: Null, difference: str | None = None, quality: str | None = None) -> "NullSummary":
        """What there is to say of a null."""
        known = null.subjects is not None
        return cls(null.kind, null.n_subjects, len(null.similarity), known, null.suspects, difference, quality)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that this null can give."""
        return smallest_p(self.n_subjects, self.kind)

    @property
    def several_each(self) -> bool:
        """Whether subjects of the null have several images."""
        return self.n_images > self.n_subjects

    def resolves(self, level: float) -> bool:
        """Whether p ≤ level can happen against this null."""
        return at_most(self.smallest_p, level)

    def calibrated(self, level: float) -> bool:
        """Whether p ≤ level can happen against this null, and then means what it says."""
        return self.kind != NullKind.TRAIN_HALVES and self.difference is None and self.resolves(level)


@dataclass(frozen=True)
class Flagging:
    """The p-values of n images, under which rule they were flagged, and against which null.

    Attributes:
        p_value: How often a novel real image is at least this similar; small means memorized.
        flagged: Whether the image counts as a copy under the rule.
        group: Number of the group of near-duplicates each image is in. Near-duplicates of one another are one
            observation.
        rule: When an image is flagged.
        null: What p-values were compared with.
    """

    p_value: Float[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    group: Int[Tensor, " n"]
    rule: FlagRule
    null: NullSummary

    def __len__(self) -> int:
        return len(self.p_value)

    @property
    def count(self) -> int:
        """Number of flagged images."""
        return int(self.flagged.sum())

    @property
    def expected(self) -> float:
        """Number of false flags to expect: at most n α if nothing is a copy. Under a false discovery rate that times
        the count, an estimate; if nothing is a copy, all flags are false.
        """
        return len(self) * self.rule.alpha if self.rule.fdr is None else self.rule.fdr * self.count

    @property
    def rate(self) -> float:
        """Share of flagged images, false flags included."""
        return self.count / len(self)

    @property
    def level(self) -> float:
        """The p-value at which a single image is flagged."""
        return self.rule.alpha if self.rule.fdr is None else self.rule.fdr / len(self)

    @property
    def n_distinct(self) -> int:
        """Number of images when near-duplicates of one another count once."""
        return len(self.group.unique())

    @property
    def resolvable(self) -> bool:
        """Whether a single copy could be flagged with as few subjects as the null has (under `fdr` true if any is)."""
        return (self.rule.fdr is not None and self.count > 0) or self.null.resolves(self.level)

    @property
    def calibrated(self) -> bool:
        """Whether p ≤ alpha can happen against this null, and then means what it says."""
        return self.null.calibrated(self.rule.alpha)

    def at(self, level: float) -> tuple[int, int]:
        """Images with p ≤ level, and images."""
        return int(at_most(self.p_value, level).sum()), len(self)

    def distinct_at(self, level: float) -> tuple[int, int]:
        """The same, where near-duplicates count once."""
        return distinct_flags(at_most(self.p_value, level), self.group)

    @property
    def levels(self) -> list[float]:
        """Levels at which flags are counted: alpha, and if it is much smaller the least that the null resolves.

        Many copies show at alpha, few but clear ones among the images beyond the whole null.
        """
        least, alpha = self.null.smallest_p, self.rule.alpha
        return [least, alpha] if at_most(2 * least, alpha) else [alpha]

    def chance(self, distinct: bool = True) -> float:
        """Probability of so many flags, at either of the levels, among novel images.

        Args:
            distinct: Whether near-duplicates count once.
        """
        counts = [self.distinct_at(level) if distinct else self.at(level) for level in self.levels]
        return self._chance_of(counts)

    @property
    def least_chance(self) -> float:
        """The same if every distinct image were flagged: what no number of flags can fall below."""
        return self._chance_of([(self.n_distinct, self.n_distinct) for _ in self.levels])

    def exceeds_a_run(self, look: int, risk: float) -> bool:
        """Whether look number `look` (from 1) at a run shows more flags than a whole run without copies would, with
        probability `risk` at most. See `rates.false_flags.alarm`.
        """

        def raised(level: float) -> bool:
            flagged, n = self.distinct_at(level)
            null = self.null.n_subjects, self.null.several_each
            return false_flags.alarm(flagged, n, look, level, *null, risk=risk / len(self.levels), kind=self.null.kind)

        return any(raised(level) for level in self.levels)

    def rate_interval(self, power: Power | None, confidence: float = 0.95) -> RateInterval:
        """Limits of the share of copies among the samples, for false flags and (where power was measured) misses.

        The lower one is above 0 only for more flags than chance explains; the upper one takes every flag for a copy,
        and counts those that the detector would not see. See `certificates.memorization_rate`.

        Raises:
            CalibrationError: If the null cannot resolve alpha.
        """
        distinct, _ = self.distinct_at(self.rule.alpha)
        interval = memorization_rate(
            # Where near-duplicates are not flagged, the smaller share counts: of images or of groups.
            min(distinct, round_down(self._share_of_groups)),
            self.n_distinct,
            self.rule.alpha,
            self.null.n_subjects,
            self.null.several_each,
            confidence=confidence,
            kind=self.null.kind,
        )
        return interval._replace(upper=self.certificate(power, (1 + confidence) / 2).rate_upper)

    def certificate(self, power: Power | None, confidence: float = 0.95) -> Certificate:
        """At most what share of the samples are copies, and what that rests on, in a sentence.

        Raises:
            CalibrationError: If the null cannot resolve alpha.
        """
        # Where near-duplicates are flagged, they may all be copies: the larger share counts, of images or of groups.
        distinct, _ = self.distinct_at(self.rule.alpha)
        return certify(
            max(distinct, round_up(self._share_of_groups)),
            self.n_distinct,
            self.rule.alpha,
            self.null.n_subjects,
            None if power is None else power.counts,
            confidence,
            self.null.kind,
        )

    def _chance_of(self, counts: list[tuple[int, int]]) -> float:
        null = self.null
        p_values = [
            false_flags.excess_p_value(*count, level, null.n_subjects, null.several_each, null.kind)
            for count, level in zip(counts, self.levels, strict=True)
        ]
        # A p-value that is a level up to rounding is that level.
        return len(p_values) * min(p_values) - ROUNDING

    @property
    def _share_of_groups(self) -> float:
        """Distinct images of which as large a share is flagged as of all images."""
        flagged, n = self.at(self.rule.alpha)
        return flagged / n * self.n_distinct
