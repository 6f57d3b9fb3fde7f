"""How many copies may be left among samples of which the flagged ones were taken out?"""

from dataclasses import dataclass

from mi_callback.errors import CalibrationError
from mi_callback.statistics.rates.clopper_pearson import one_sided
from mi_callback.statistics.rates.copies import POWER_BUDGET, PlantedCount


@dataclass(frozen=True)
class Remainder:
    """An upper limit of the copies that were missed, in a batch that was filtered once.

    Attributes:
        missed_at_most: Distinct copies left, at most.
        confidence: Probability with which such limits hold.
        n: Distinct samples before anything was taken out.
        removed: Distinct samples taken out.
        power: Planted copies found, and planted.
        power_lower: Lower limit of the power, on which it rests.
    """

    missed_at_most: int
    confidence: float
    n: int
    removed: int
    power: PlantedCount
    power_lower: float


def certify_remainder(removed: int, n: int, power: tuple[int, int], confidence: float = 0.95) -> Remainder:
    r"""Limit the number of copies left after everything that was flagged has been taken out.

    Removing flags is a selection by the very test that a certificate counts, so one that counts no flags among the rest
    would say nothing. What is left are the copies that the test missed. Of K copies in the batch, each found with a
    probability of at least t, X are found, and

    .. math:: K \leq K(X) = \max\{K : P(\mathrm{Binomial}(K, t) \leq X) > e\}

    fails with probability at most e, whatever K. K(X) − X does not fall with X, so the copies that were missed, K − X,
    are at most K(F) − F for all F ≥ X that were taken out: every one of these may have been a copy. Nothing is assumed
    of novel samples, nor of how the batch came about. t is a lower limit, wrong with probability e'; e + e' is what the
    confidence leaves, `POWER_BUDGET` of it for e'.

    Args:
        removed: F, samples taken out; all that were flagged at the level of the power are among them.
        n: Samples before that. Near-duplicates count once, and are taken out together.
        power: Planted copies found, and planted.
        confidence: Of the limit.

    Returns:
        The limit, never more than n − F.

    Raises:
        CalibrationError: If the counts are impossible, or so few planted copies were found that no limit follows.

    References:
        Clopper and Pearson, Biometrika 1934 (the limit of t).

    Example:
        >>> certify_remainder(removed=3, n=500, power=(60, 64)).missed_at_most
        3
        >>> certify_remainder(removed=3, n=500, power=(30, 64)).missed_at_most
        19
    """
    if n < 1 or not 0 <= removed <= n:
        raise CalibrationError(f"needed 0 ≤ removed ≤ n and n ≥ 1 for a remainder; {removed} of {n} came.")
    if power[1] < 1 or not 0 <= power[0] <= power[1] or not 0 < confidence < 1:
        raise CalibrationError(
            f"needed planted copies found and planted, confidence in (0, 1); {tuple(power)}, {confidence} came."
        )
    error = 1 - confidence
    found = one_sided(*power, error * POWER_BUDGET).lower
    if found == 0:
        raise CalibrationError(
            "needed a detector that finds planted copies; none was found, so any number may be left."
        )
    left = _missed(removed, n, found, error * (1 - POWER_BUDGET))
    return Remainder(left, confidence, n, removed, PlantedCount(*power), found)


def _missed(removed: int, n: int, found: float, error: float) -> int:
    """K(F) − F, or n − F where that is less."""
    from scipy.special import bdtr

    low, high = removed, n  # P(Binomial(K, t) ≤ F) falls with K, and is 1 at K = F
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bdtr(removed, middle, found) > error else (low, middle - 1)
    return low - removed
