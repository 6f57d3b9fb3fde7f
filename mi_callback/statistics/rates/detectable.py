"""Which share of copies would an audit of this size notice?"""

from mi_callback.statistics.null import NullKind
from mi_callback.statistics.rates.false_flags import excess_p_value

CHANCE = 0.8
"""Probability with which the smallest detectable rate is noticed."""


def smallest_detectable_rate(
    n: int,
    alpha: float,
    n_subjects: int,
    power: float,
    several_each: bool = False,
    kind: NullKind | str = NullKind.HELD_OUT,
    level: float = 0.05,
) -> float | None:
    r"""The smallest share π of copies of which so many are flagged that chance does not explain it.

    With x the fewest flags whose `excess_p_value` is at most `level`, the smallest π with

    .. math:: P(\mathrm{Binomial}(n, \pi t) \geq x) \geq 0.8

    Copies alone are counted: novel samples that are flagged by chance would make it smaller, but blurred ones are
    flagged more rarely than expected.

    Args:
        n: Distinct samples.
        alpha: Level of each flag.
        n_subjects: Subjects in the null.
        power: t, share of planted copies that is found, in [0, 1].
        several_each: Whether null subjects have several images.
        kind: How the null was made.
        level: Of the verdict.

    Returns:
        π in (0, 1]; None where not even a batch of nothing but copies would be noticed as often.

    Example:
        >>> rate = smallest_detectable_rate(n=1000, alpha=0.01, n_subjects=199, power=0.9)
        >>> round(rate, 3)
        0.033
    """
    needed = _flags_needed(n, alpha, n_subjects, several_each, kind, level)
    if needed is None:
        return None
    from scipy.optimize import brentq
    from scipy.stats import binom

    def short(rate: float) -> float:
        return float(binom.sf(needed - 1, n, rate * power)) - CHANCE

    return None if short(1.0) < 0 else float(brentq(short, 0.0, 1.0))


def _flags_needed(
    n: int, alpha: float, n_subjects: int, several_each: bool, kind: NullKind | str, level: float
) -> int | None:
    """The fewest flags among n that chance does not explain; None where no number does."""
    if excess_p_value(n, n, alpha, n_subjects, several_each, kind) > level:
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        enough = excess_p_value(middle, n, alpha, n_subjects, several_each, kind) <= level
        low, high = (low, middle) if enough else (middle, high)
    return high
