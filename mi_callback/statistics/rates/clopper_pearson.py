"""The exact interval of a binomial rate."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of a share: `lower ≤ upper`, in [0, 1]."""

    lower: float
    upper: float


def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> Limits:
    """Exact two-sided interval of a binomial rate: `one_sided` limits, each with half of the error.

    Args:
        count: How many of the n show what is counted.
        n: Number of independent images, or subjects.
        confidence: Probability, at least, with which such an interval holds the rate, in (0, 1).

    Returns:
        Limits of the rate; (0, 1) when n is 0.

    References:
        Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 1934.

    Example:
        >>> [round(limit, 4) for limit in clopper_pearson(3, 40)]
        [0.0157, 0.2039]
    """
    return one_sided(count, n, (1 - confidence) / 2)


def one_sided(count: int, n: int, error: float) -> Limits:
    r"""Exact lower and upper limit of a binomial rate, each one wrong with probability at most `error`.

    .. math:: P(X \geq x \mid \pi_{\mathrm{lower}}) = e, \quad P(X \leq x \mid \pi_{\mathrm{upper}}) = e,
              \quad X \sim \mathrm{Binomial}(n, \pi)

    with the count x and the error e. The limits are quantiles of beta distributions.

    Args:
        count: x, how many of the n show what is counted.
        n: Number of independent images, or subjects.
        error: e, in (0, 1).

    Returns:
        Limits of the rate; (0, 1) when n is 0.

    References:
        Clopper and Pearson, Biometrika 1934.

    Example:
        >>> round(one_sided(0, 100, 0.05).upper, 4)  # about 3 / n
        0.0295
    """
    from scipy.stats import beta

    if n == 0:
        return Limits(0.0, 1.0)
    lower = 0.0 if count == 0 else float(beta.ppf(error, count, n - count + 1))
    upper = 1.0 if count == n else float(beta.ppf(1 - error, count + 1, n - count))
    return Limits(lower, upper)
