"""What share of the samples are copies, at most and at least, and how many samples and subjects a bound takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mi_callback.errors import CalibrationError
from mi_callback.statistics.multiplicity import excess_p_value, false_flag_rate
from mi_callback.statistics.null import ROUNDING, NullKind, smallest_p, subjects_needed

POWER_BUDGET = 0.2
"""Share of the permitted error that is spent on the power, where it was measured: with more than a few planted copies
its limit costs less than that of the flags."""

CHEAP = 10
"""A plan takes up to this many times the fewest samples that could show the bound, to save held-out subjects: that
alone divides the number of subjects by five (bound 0.01: 231 subjects and 2902 samples, not 1196 and 299)."""

QUANTILES = 500
"""Values of the false-flag probability over which the lower limit averages; relative error of the average below 1 %."""

MOST_SUBJECTS = 1_000_000
"""Held-out subjects above which a plan is given up."""


class RateInterval(NamedTuple):
    """Share of samples that are copies: limits and estimate, `lower ≤ estimate ≤ upper`, in [0, 1]."""

    lower: float
    estimate: float
    upper: float


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


def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a binomial rate over n independent images; (0, 1) when n is 0."""
    return one_sided(count, n, (1 - confidence) / 2)


def one_sided(count: int, n: int, error: float) -> tuple[float, float]:
    """Exact lower and upper limit of a binomial rate, each one wrong with probability at most `error`.

    References:
        Clopper and Pearson, Biometrika 1934.
    """
    from scipy.stats import beta

    if n == 0:
        return 0.0, 1.0
    lower = 0.0 if count == 0 else float(beta.ppf(error, count, n - count + 1))
    upper = 1.0 if count == n else float(beta.ppf(1 - error, count + 1, n - count))
    return lower, upper


def memorization_rate(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    several_each: bool = False,
    power: tuple[int, int] | None = None,
    confidence: float = 0.95,
    kind: NullKind = "held_out",
) -> RateInterval:
    """Which share π of the samples are copies, with false flags and missed copies taken into account.

    A share r = π t + (1 − π) f is flagged, with t the probability to flag a copy and f that to flag a novel image.

    *Lower limit*: the smallest π at which so many flags are not surprising (probability above (1 − confidence) / 2).
    f is not a parameter but was drawn with the null (`multiplicity.false_flag_rate`), so it is integrated over, as in
    `excess_p_value`: the limit is above 0 exactly where that p-value is small. t counts as 1, which makes π smallest.

    *Upper limit*: that of r over the lower limit of t, with f = 0: every flag may be a copy. f is known for images
    that are as similar to the training set as held-out ones are; samples that are blurred or broken are flagged
    more rarely, and a limit that takes "the expected" false flags off would then hide as many copies. The price is
    an upper limit above α for a generator that copies nothing: certify at a small α (`plan`).

    The errors are split: half for each limit; `POWER_BUDGET` of the upper half for t where it was measured.

    Args:
        flagged: Samples with p ≤ alpha. Not a count under Benjamini-Hochberg.
        n: Samples, independent of each other; near-duplicates count once (`multiplicity.distinct_flags`).
        alpha: Level of each flag.
        n_subjects: Subjects in the null, G.
        several_each: Whether null subjects have several images; their false-flag rate is then less certain.
        power: Planted copies found, and planted, at the same alpha and against the same null. When None, t = 1
            is *assumed*, and missed copies are missing from the result.
        confidence: Of the interval from `lower` to `upper`.
        kind: How the null was made.

    Returns:
        Limits, and the estimate of Rogan and Gladen, (r − f) / (t − f) with the mean of f, moved into the limits.

    Raises:
        CalibrationError: If the null cannot resolve alpha or is not calibrated (`train_halves`), or the counts or
            levels are impossible.

    References:
        Rogan and Gladen, "Estimating prevalence from the results of a screening test", Am. J. Epidemiol. 1978;
        Bates et al., Ann. Statist. 2023 (f given the null).

    Example:
        >>> [round(limit, 3) for limit in memorization_rate(flagged=12, n=100, alpha=0.01, n_subjects=199)]
        [0.052, 0.111, 0.2]
    """
    _check(flagged, n, alpha, n_subjects, power, confidence, kind)
    error = (1 - confidence) / 2
    lower = _rate_lower(flagged, n, alpha, n_subjects, several_each, kind, error)
    upper, _ = _rate_upper(flagged, n, power, error)
    rate = false_flag_rate(alpha, n_subjects, several_each, kind) or (0.0, 1.0)
    false = min(alpha, rate[0] / sum(rate))
    found = 1.0 if power is None else power[0] / power[1]
    excess = flagged / n - false
    estimate = excess / (found - false) if found > false else math.inf * (1 if excess > 0 else -1)
    return RateInterval(lower, min(max(estimate, lower), upper), upper)


def certify(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    power: tuple[int, int] | None = None,
    confidence: float = 0.95,
    kind: NullKind = "held_out",
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
    _check(flagged, n, alpha, n_subjects, power, confidence, kind)
    upper, power_lower = _rate_upper(flagged, n, power, 1 - confidence)
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


def _check(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    power: tuple[int, int] | None,
    confidence: float,
    kind: NullKind,
) -> None:
    if n < 1 or not 0 <= flagged <= n:
        raise CalibrationError(f"needed 0 ≤ flagged ≤ n and n ≥ 1 for a rate of copies; {flagged} of {n} came.")
    if not 0 < confidence < 1:
        raise CalibrationError(f"needed a confidence in (0, 1); {confidence} came.")
    if not 0 < alpha < 1:
        raise CalibrationError(f"needed an alpha in (0, 1) for a rate of copies; {alpha} came.")
    if power is not None and (power[1] < 1 or not 0 <= power[0] <= power[1]):
        raise CalibrationError(
            f"needed planted copies found and planted, 0 ≤ found ≤ planted and planted ≥ 1; {power} came. "
            "Pass None where none were planted."
        )
    if kind == "train_halves":
        raise CalibrationError(
            "needed a calibrated null for a rate of copies; train_halves came. Use null='held_out' or 'cross_fit'."
        )
    if smallest_p(n_subjects, kind) > alpha + ROUNDING:
        raise CalibrationError(
            f"needed at least {subjects_needed(alpha, kind)} {kind} subjects for a rate of copies at alpha {alpha:g}; "
            f"{n_subjects} came, against which no image can be flagged. Hold out more subjects, or raise alpha."
        )


def _rate_upper(flagged: int, n: int, power: tuple[int, int] | None, error: float) -> tuple[float, float]:
    """Upper limit of the share of copies, wrong with probability at most `error`, and the power it rests on."""
    if power is None:
        return one_sided(flagged, n, error)[1], 1.0
    found = one_sided(*power, error * POWER_BUDGET)[0]
    rate = one_sided(flagged, n, error * (1 - POWER_BUDGET))[1]
    return (rate / found if rate < found else 1.0), found


def _rate_lower(
    flagged: int, n: int, alpha: float, n_subjects: int, several_each: bool, kind: NullKind, error: float
) -> float:
    """Smallest share of copies at which as many flags have a probability above `error`."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import betainc, betaincinv

    rate_of_null = false_flag_rate(alpha, n_subjects, several_each, kind)
    if rate_of_null is None or excess_p_value(flagged, n, alpha, n_subjects, several_each, kind) > error:
        return 0.0
    # The integral over f becomes one over its quantiles sin² v, whose nodes crowd in the tails, where it is decided.
    v = (np.arange(QUANTILES) + 0.5) * math.pi / (2 * QUANTILES)
    weights = np.sin(2 * v) / np.sin(2 * v).sum()
    false = betaincinv(*rate_of_null, np.sin(v) ** 2)

    def surprise(rate: float) -> float:
        at_least = betainc(flagged, n - flagged + 1, rate + (1 - rate) * false)  # P(Binomial ≥ flagged)
        return float(weights @ at_least) - error

    return float(brentq(surprise, 0.0, 1.0)) if surprise(0.0) < 0 else 0.0


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
