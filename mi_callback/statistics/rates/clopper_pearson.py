"""The exact interval of a binomial rate."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of a share: `lower ≤ upper`, in [0, 1]."""

    lower: float
    upper: float


def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> Limits:
    """Exact two-sided interval of a binomial rate over n independent images; (0, 1) when n is 0."""
    return one_sided(count, n, (1 - confidence) / 2)


def one_sided(count: int, n: int, error: float) -> Limits:
    """Exact lower and upper limit of a binomial rate, each one wrong with probability at most `error`.

    References:
        Clopper and Pearson, Biometrika 1934.
    """
    from scipy.stats import beta

    if n == 0:
        return Limits(0.0, 1.0)
    lower = 0.0 if count == 0 else float(beta.ppf(error, count, n - count + 1))
    upper = 1.0 if count == n else float(beta.ppf(1 - error, count + 1, n - count))
    return Limits(lower, upper)
