"""An upper limit of the share of copies, in a sentence, and how many samples and subjects it takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mi_callback.errors import CalibrationError
from mi_callback.statistics.null import NullKind
from mi_callback.statistics.rates.copies import POWER_BUDGET, check_counts, upper_limit

CHEAP = 10
"""A plan takes up to this many times the fewest samples that could show the bound, to save held-out subjects: that
alone divides the number of subjects by five (bound 0.01: 231 subjects and 2902 samples, not 1196 and 299)."""

MOST_SUBJECTS = 1_000_000
"""Held-out subjects above which a plan is given up."""


@dataclass(frozen=True)
class Certificate:
    """An upper limit of the share of samples that are copies, with what it rests on.

    Attributes:
        rate_upper: At most this share of the samples are copies, in [0, 1].
        confidence: Probability with which such limits hold.
        n: Number of independent samples.
        flagged: How many were flagged.
        alpha: Level of each flag.
        n_subjects: Subjects in the null.
        power: Planted copies found, and planted; None if none were planted.
        power_lower: Lower limit of the power that `rate_upper` rests on; 1 where it was assumed.
    """

    rate_upper: float
    confidence: float
    n: int
    flagged: int
    alpha: float
    n_subjects: int
    power: tuple[int, int] | None
    power_lower: float

    @property
    def statement(self) -> str:
        """The limit in a sentence, with its conditions; rates are rounded to the safe side."""
        text = (
            f"at most {_percent(self.rate_upper, up=True)} of samples are copies "
            f"({100 * self.confidence:g} % confidence; {self.flagged} of {self.n} flagged "
            f"at p ≤ {self.alpha:.3g} against {self.n_subjects} subjects), "
        )
        if self.power is None:
            return (
                text + "ASSUMING that every copy is flagged (none were planted to measure it) and independent samples"
            )
        found, planted = self.power
        return text + (
            f"given that copies of the planted kinds are found with at least {_percent(self.power_lower, up=False)} "
            f"({found} of {planted} were); assumes independent samples"
        )

    def __str__(self) -> str:
        return self.statement


@dataclass(frozen=True)
class Plan:
    """What it takes for a generator that copies nothing to get a certificate.

    Attributes:
        n_samples: Independent samples to draw.
        n_subjects: Held-out subjects to calibrate on.
        alpha: Level of the flags, a multiple of 1 / (n_subjects + 1).
        flagged_at_most: With more flags than this among `n_samples` the certificate exceeds the bound.
        assurance: Probability that a generator which copies nothing stays within it, at least what was asked for.
    """

    n_samples: int
    n_subjects: int
    alpha: float
    flagged_at_most: int
    assurance: float


def certify(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    power: tuple[int, int] | None = None,
    confidence: float = 0.95,
    kind: NullKind | str = NullKind.HELD_OUT,
) -> Certificate:
    """An upper limit of the share of copies, one-sided: the upper limit of `memorization_rate` with the whole error.

    It needs no assumption on the null or on novel samples, which can only add flags. It does need the power: a
    copy of a kind that was not planted, or planted more easily found than real ones are, is not covered.

    Raises:
        CalibrationError: As `memorization_rate`.

    Example:
        >>> certificate = certify(flagged=0, n=1000, alpha=0.001, n_subjects=999, power=(99, 100))
        >>> round(certificate.rate_upper, 4), round(certificate.power_lower, 2)
        (0.0034, 0.94)
    """
    check_counts(flagged, n, alpha, n_subjects, power, confidence, kind)
    upper, power_lower = upper_limit(flagged, n, power, 1 - confidence)
    return Certificate(upper, confidence, n, flagged, alpha, n_subjects, power, power_lower)


def plan(
    bound: float,
    confidence: float = 0.95,
    alpha: float | None = None,
    power: float = 1.0,
    assurance: float = 0.8,
) -> Plan:
    """How many samples and held-out subjects are needed to certify at most a share `bound` of copies.

    A generator that copies nothing still gets false flags, a beta-binomial number of them, and each one raises the
    limit. The certificate (`certify`) stays within the bound while at most c of n samples are flagged; for every
    c there is a smallest n, and the smallest c whose probability reaches the assurance is the plan.

    Held-out subjects are scarce and samples are cheap, so the number of subjects is minimised first, with up to `CHEAP`
    times the fewest samples that could do (those of c = 0); then the number of samples. Without `alpha` the
    level is the smallest that the null resolves, 1 / (G + 1): for a given G it has the fewest false flags. A level
    is given where the smallest one has too little power; it becomes the next lower multiple of 1 / (G + 1).

    Args:
        bound: Largest acceptable `rate_upper`, in (0, 1).
        confidence: Of the certificate.
        alpha: Level of the flags; chosen when None.
        power: The lower limit of the power that planting is expected to give. 1: assumed perfect, nothing planted.
        assurance: Probability with which a generator that copies nothing shall get the certificate.

    Raises:
        CalibrationError: If a number is out of range, or alpha is too large for the bound.

    Example:
        >>> needed = plan(bound=0.01)
        >>> needed.n_samples, needed.n_subjects, round(needed.alpha, 4), needed.flagged_at_most
        (2902, 231, 0.0043, 20)
    """
    for name, value in (("bound", bound), ("confidence", confidence), ("assurance", assurance)):
        if not 0 < value < 1:
            raise CalibrationError(f"needed {name} in (0, 1) for a plan; {value} came.")
    if not 0 < power <= 1:
        raise CalibrationError(
            f"needed power in (0, 1] for a plan; {power} came. Without power no share of copies is excluded."
        )
    if alpha is not None and not 0 < alpha < 1:
        raise CalibrationError(f"needed alpha in (0, 1) for a plan, or None; {alpha} came.")
    error = (1 - confidence) * (1 if power == 1 else 1 - POWER_BUDGET)
    rate = bound * power
    counts = [_fewest_samples(0, rate, error)]
    while (following := _fewest_samples(len(counts), rate, error)) <= CHEAP * counts[0]:
        counts.append(following)
    most = len(counts) - 1

    def subjects(size: int) -> tuple[int, int]:
        """k and G. The size searched over is G itself, or k where the level is given."""
        return (1, size) if alpha is None else (size, max(1, math.ceil(size / alpha - 1e-9) - 1))

    def chance(allowed: int, size: int) -> float:
        k, n_subjects = subjects(size)
        return _chance_of_at_most(allowed, counts[allowed], k, n_subjects)

    size = 1
    while chance(most, size) < assurance:
        size *= 2
        if subjects(size)[1] > MOST_SUBJECTS:
            cause, remedy = (
                ("the bound takes more", "Use a larger bound")
                if alpha is None
                else (
                    f"at alpha {alpha:g} false flags alone may exceed it",
                    f"Use a smaller alpha, {rate / 3:.2g} or below",
                )
            )
            raise CalibrationError(
                f"needed at most {MOST_SUBJECTS} held-out subjects to certify a rate of {bound:g} at power {power:g}; "
                f"{cause}. {remedy}, or less assurance."
            )
    size = _smallest(lambda value: chance(most, value) >= assurance, size // 2 + 1, size)
    allowed = next(c for c in range(most + 1) if chance(c, size) >= assurance)
    k, n_subjects = subjects(size)
    return Plan(counts[allowed], n_subjects, k / (n_subjects + 1), allowed, chance(allowed, size))


def _fewest_samples(allowed: int, rate: float, error: float) -> int:
    """Smallest n for which `allowed` flags have an upper limit (`one_sided`) of at most `rate`."""
    from scipy.special import bdtr

    def suffices(n: int) -> bool:
        return bool(bdtr(allowed, n, rate) <= error)

    most = allowed + 1
    while not suffices(most):
        most *= 2
    return _smallest(suffices, allowed + 1, most)


def _chance_of_at_most(allowed: int, n: int, k: int, n_subjects: int) -> float:
    """Probability of at most so many false flags among n novel images, over nulls (beta-binomial)."""
    from scipy.stats import betabinom

    return float(betabinom.cdf(allowed, n, k, n_subjects + 1 - k))


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Smallest integer in [low, high] for which `holds`, which is true at `high` and monotone."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _percent(share: float, up: bool) -> str:
    """Two significant digits, rounded to one side."""
    if share in (0, 1):
        return f"{100 * share:g} %"
    step = 10.0 ** (math.floor(math.log10(share)) - 1)
    digits = math.ceil(share / step - 1e-9) if up else math.floor(share / step + 1e-9)
    return f"{100 * digits * step:.3g} %"
