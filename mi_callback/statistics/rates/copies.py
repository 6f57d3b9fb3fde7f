"""What share of the samples are copies, at most and at least."""

import math
from typing import NamedTuple

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import at_most
from mi_callback.statistics.null import NullKind, null_kind, smallest_p, subjects_needed
from mi_callback.statistics.rates.clopper_pearson import one_sided
from mi_callback.statistics.rates.false_flags import BetaRate, excess_p_value, false_flag_rate

POWER_BUDGET = 0.2
"""Share of the permitted error that is spent on the power, where it was measured: with more than a few planted copies
its limit costs less than that of the flags."""

QUANTILES = 500
"""Values of the false-flag probability over which the lower limit averages; relative error of the average below 1 %."""


class PlantedCount(NamedTuple):
    """Planted copies that were found, and all of them: `found ≤ planted`."""

    found: int
    planted: int


class RateInterval(NamedTuple):
    """Share of samples that are copies: limits and estimate, `lower ≤ estimate ≤ upper`, in [0, 1]."""

    lower: float
    estimate: float
    upper: float


class UpperLimit(NamedTuple):
    """Upper limit of the share of copies, and the lower limit of the power that it rests on; both in [0, 1]."""

    rate: float
    power: float


def memorization_rate(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    several_each: bool = False,
    power: tuple[int, int] | None = None,
    confidence: float = 0.95,
    kind: NullKind | str = NullKind.HELD_OUT,
) -> RateInterval:
    r"""Which share π of the samples are copies, with false flags and missed copies taken into account.

    A share

    .. math:: r = \pi t + (1 - \pi) f

    is flagged, with t the probability to flag a copy and f that to flag a novel image.

    *Lower limit*: the smallest π at which so many flags are not surprising (probability above (1 − confidence) / 2).
    f is not a parameter but was drawn with the null (`false_flag_rate`), so it is integrated over, as in
    `excess_p_value`: the limit is above 0 exactly where that p-value is small. t counts as 1, which makes π smallest.

    *Upper limit*: that of r over the lower limit of t, with f = 0: every flag may be a copy. f is known for images
    that are as similar to the training set as held-out ones are; samples that are blurred or broken are flagged
    more rarely, and a limit that takes "the expected" false flags off would then hide as many copies. The price is
    an upper limit above α for a generator that copies nothing: certify at a small α (`certificates.plan`).

    *Estimate*: that of Rogan and Gladen, with the mean of f, moved into the limits.

    .. math:: \hat\pi = \frac{r - f}{t - f}

    The errors are split: half for each limit; `POWER_BUDGET` of the upper half for t where it was measured.

    Args:
        flagged: Samples with p ≤ alpha. Not a count under Benjamini-Hochberg.
        n: Samples, independent of each other; near-duplicates count once (`duplicates.distinct_flags`).
        alpha: Level of each flag.
        n_subjects: Subjects in the null, G.
        several_each: Whether null subjects have several images; their false-flag rate is then less certain.
        power: Planted copies found, and planted, at the same alpha and against the same null. When None, t = 1
            is *assumed*, and missed copies are missing from the result.
        confidence: Of the interval from `lower` to `upper`.
        kind: How the null was made.

    Returns:
        Limits, and the estimate between them; larger means more copies.

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
    check_counts(flagged, n, alpha, n_subjects, power, confidence, kind)
    error = (1 - confidence) / 2
    # None where everything is flagged, copy or not.
    rate = false_flag_rate(alpha, n_subjects, several_each, kind) or BetaRate(0.0, 1.0)
    surprising = excess_p_value(flagged, n, alpha, n_subjects, several_each, kind) <= error
    lower = _lower_limit(flagged, n, rate, error) if surprising else 0.0
    upper = upper_limit(flagged, n, power, error).rate
    estimate = _rogan_gladen(flagged / n, min(alpha, rate.mean), 1.0 if power is None else power[0] / power[1])
    return RateInterval(lower, min(max(estimate, lower), upper), upper)


def upper_limit(flagged: int, n: int, power: tuple[int, int] | None, error: float) -> UpperLimit:
    r"""Upper limit of the share of copies, wrong with probability at most `error`, and the power it rests on.

    .. math:: \pi_{\mathrm{upper}} = \min\left(1, \frac{r_{\mathrm{upper}}}{t_{\mathrm{lower}}}\right)

    with `one_sided` limits of the share r that is flagged and of the share t of planted copies that is found.

    Args:
        flagged: Samples flagged.
        n: Samples, independent of each other.
        power: Planted copies found, and planted; None to assume that every copy is flagged.
        error: Probability, of which `POWER_BUDGET` is spent on the power.

    Example:
        >>> limit = upper_limit(0, 1000, power=(99, 100), error=0.05)
        >>> round(limit.rate, 4), round(limit.power, 2)
        (0.0034, 0.94)
    """
    if power is None:
        return UpperLimit(one_sided(flagged, n, error).upper, 1.0)
    found = one_sided(*power, error * POWER_BUDGET).lower
    rate = one_sided(flagged, n, error * (1 - POWER_BUDGET)).upper
    return UpperLimit(rate / found if rate < found else 1.0, found)


def check_counts(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    power: tuple[int, int] | None,
    confidence: float,
    kind: NullKind | str,
) -> None:
    """Refuse counts and levels from which no share of copies follows.

    Raises:
        CalibrationError: If the null cannot resolve alpha or is not calibrated, or the counts or levels are impossible.

    Example:
        >>> check_counts(0, 10, 0.05, 10, None, 0.95, "held_out")
        Traceback (most recent call last):
        mi_callback.errors.CalibrationError: needed at least 19 held_out subjects for a rate of copies at alpha 0.05; \
10 came, against which no image can be flagged. Hold out more subjects, or raise alpha.
    """
    if n < 1 or not 0 <= flagged <= n:
        raise CalibrationError(f"needed 0 ≤ flagged ≤ n and n ≥ 1 for a rate of copies; {flagged} of {n} came.")
    if not 0 < confidence < 1:
        raise CalibrationError(f"needed a confidence in (0, 1); {confidence} came.")
    if not 0 < alpha < 1:
        raise CalibrationError(f"needed an alpha in (0, 1) for a rate of copies; {alpha} came.")
    if power is not None and (power[1] < 1 or not 0 <= power[0] <= power[1]):
        raise CalibrationError(
            f"needed planted copies found and planted, 0 ≤ found ≤ planted and planted ≥ 1; {tuple(power)} came. "
            "Pass None where none were planted."
        )
    if not null_kind(kind).calibrated:
        raise CalibrationError(
            "needed a calibrated null for a rate of copies; train_halves came. Use null='held_out' or 'cross_fit'."
        )
    if not at_most(smallest_p(n_subjects, kind), alpha):
        raise CalibrationError(
            f"needed at least {subjects_needed(alpha, kind)} {kind} subjects for a rate of copies at alpha {alpha:g}; "
            f"{n_subjects} came, against which no image can be flagged. Hold out more subjects, or raise alpha."
        )


def _lower_limit(flagged: int, n: int, rate: BetaRate, error: float) -> float:
    """Smallest share of copies at which as many flags have a probability above `error`, averaged over nulls."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import betainc, betaincinv

    # The integral over f becomes one over its quantiles sin² v, whose nodes crowd in the tails, where it is decided.
    v = (np.arange(QUANTILES) + 0.5) * math.pi / (2 * QUANTILES)
    weights = np.sin(2 * v) / np.sin(2 * v).sum()
    false = betaincinv(*rate, np.sin(v) ** 2)

    def surprise(share: float) -> float:
        at_least = betainc(flagged, n - flagged + 1, share + (1 - share) * false)  # P(Binomial ≥ flagged)
        return float(weights @ at_least) - error

    return float(brentq(surprise, 0.0, 1.0)) if surprise(0.0) < 0 else 0.0


def _rogan_gladen(rate: float, false: float, found: float) -> float:
    """Share of copies where a share `rate` is flagged, of copies `found` and of novel images `false`; unbounded."""
    if found > false:
        return (rate - false) / (found - false)
    return math.inf if rate > false else -math.inf
