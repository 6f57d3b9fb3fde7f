"""How many flags novel images get, and when there are more than that, at one look or over a whole run."""

import math
from typing import NamedTuple

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import round_down, round_up
from mi_callback.statistics.null import NullKind


class BetaRate(NamedTuple):
    """A rate that is not known, but distributed as Beta(a, b)."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """a / (a + b)."""
        return self.a / (self.a + self.b)


def false_flag_rate(
    alpha: float, n_subjects: int, several_each: bool = False, kind: NullKind | str = NullKind.HELD_OUT
) -> BetaRate | None:
    r"""Distribution, over nulls, of the probability that a novel image is flagged at p ≤ alpha.

    .. math:: f \sim \mathrm{Beta}(k, G + 1 - k), \quad k = \lfloor \alpha (G + 1) \rfloor

    exactly, against a held-out null of G subjects with one image each. Where subjects have several images, p-values
    fall between the multiples of 1 / (G + 1) and k is rounded up, which keeps what follows on the safe side. In a
    cross-fitted null two subjects can be each other's nearest: it is worth half as many (by simulation: at G = 39 the
    rate exceeds the 97.5 % quantile in 5.6 % of nulls with the whole number, in 1.7 % with half).

    Args:
        alpha: Level of each flag.
        n_subjects: G, subjects in the null.
        several_each: Whether they have several images.
        kind: How the null was made.

    Returns:
        The parameters of the Beta distribution; None where nothing can be flagged, or everything is.

    References:
        Bates et al., "Testing for outliers with conformal p-values", Ann. Statist. 2023, section 2.

    Example:
        >>> false_flag_rate(0.05, n_subjects=39), false_flag_rate(0.05, n_subjects=39).mean
        (BetaRate(a=2.0, b=38.0), 0.05)
    """
    level = alpha * (n_subjects + 1)
    k = round_up(level) if several_each else round_down(level)
    if not 1 <= k <= n_subjects:
        return None
    share = 0.5 if kind == NullKind.CROSS_FIT else 1.0
    return BetaRate(share * k, share * (n_subjects + 1 - k))


def excess_p_value(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    several_each: bool = False,
    kind: NullKind | str = NullKind.HELD_OUT,
) -> float:
    r"""Probability of at least this many flags among n novel images, all compared with the *same* null.

    .. math:: P(X \geq x), \quad X \sim \mathrm{BetaBinomial}(n, a, b)

    with a and b of `false_flag_rate`: the flags are not independent, for a null that came out low flags all images more
    easily. The n images must be independent: count near-duplicates once (`duplicates.distinct_flags`).

    Args:
        flagged: x, distinct images flagged.
        n: Distinct images.
        alpha: Level of each flag.
        n_subjects: Subjects in the null.
        several_each: Whether they have several images.
        kind: How the null was made.

    Returns:
        A p-value, small where more is flagged than chance explains; 1 where nothing can be flagged.

    References:
        Bates et al., Ann. Statist. 2023.

    Example:
        >>> round(excess_p_value(12, 100, alpha=0.05, n_subjects=99), 4)
        0.0341
    """
    from scipy.stats import betabinom

    rate = false_flag_rate(alpha, n_subjects, several_each, kind)
    return 1.0 if rate is None else float(betabinom.sf(flagged - 1, n, *rate))


def alarm(
    flagged: int,
    n: int,
    look: int,
    alpha: float,
    n_subjects: int,
    several_each: bool = False,
    risk: float = 0.05,
    kind: NullKind | str = NullKind.HELD_OUT,
) -> bool:
    r"""Whether this look at a run shows more flags than a whole run of a non-memorizing generator would.

    Over all looks of a run, however many, the alarm is raised by mistake with probability at most `risk`, r. Half of
    it is spent once on the null, which all looks share: with probability 1 − r / 2 it flags novel images at a rate of
    at most b, the quantile of that order of `false_flag_rate`. The other half is spread over the looks: at look t the
    alarm is raised where

    .. math:: P(X \geq x) \leq \frac{r}{2} \cdot \frac{6}{\pi^2 t^2}, \quad X \sim \mathrm{Binomial}(n, b)

    and these levels sum to r / 2. Looks may depend on each other in any way (callbacks draw the same latents every
    time); images of one look must not (`duplicates.distinct_flags`).

    Args:
        flagged: x, distinct images flagged at this look.
        n: Distinct images of this look.
        look: t, 1 for the first of the run.
        alpha: Level of each flag.
        n_subjects: Subjects in the null.
        several_each: Whether they have several images.
        risk: Probability of a false alarm over the whole run, at most.
        kind: How the null was made.

    Raises:
        CalibrationError: If `look` is below 1.

    References:
        Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 1983 (alpha spending).

    Example:
        >>> [alarm(flagged, 100, look=1, alpha=0.05, n_subjects=99) for flagged in (17, 18)]
        [False, True]
    """
    from scipy.stats import beta, binom

    if look < 1:
        raise CalibrationError(f"needed the number of a look, 1 for the first; {look} came.")
    rate = false_flag_rate(alpha, n_subjects, several_each, kind)
    if rate is None:
        return False
    most = beta.ppf(1 - risk / 2, *rate)
    return bool(binom.sf(flagged - 1, n, most) <= risk / 2 * 6 / (math.pi * look) ** 2)
