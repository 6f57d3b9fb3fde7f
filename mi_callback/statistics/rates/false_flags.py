"""How many flags novel images get, and when there are more than that, once or over a whole run."""

import math
from typing import NamedTuple

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import round_down, round_up
from mi_callback.statistics.null import NullKind


class BetaRate(NamedTuple):
    """A rate that is not known but distributed as Beta(a, b), with the mean a / (a + b)."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """a / (a + b)."""
        return self.a / (self.a + self.b)


def false_flag_rate(
    alpha: float, n_subjects: int, several_each: bool = False, kind: NullKind | str = NullKind.HELD_OUT
) -> BetaRate | None:
    """Parameters of the Beta distribution of the probability, given the null, that a novel image is flagged.

    Against a held-out null with one image per subject it is Beta(k, G + 1 − k) with k = ⌊α (G + 1)⌋, exactly. Where
    subjects have several images, p-values fall between the multiples of 1 / (G + 1) and k is rounded up, which keeps
    what follows on the safe side. In a cross-fitted null two subjects can be each other's nearest: it is worth half
    as many (by simulation: at G = 39 the rate exceeds the 97.5 % quantile in 5.6 % of nulls with the whole number, in
    1.7 % with half). None where nothing can be flagged.

    References:
        Bates et al., "Testing for outliers with conformal p-values", Ann. Statist. 2023, section 2.
    """
    level = alpha * (n_subjects + 1)
    k = round_up(level) if several_each else round_down(level)
    if not 1 <= k <= n_subjects:
        return None
    share = 0.5 if kind == "cross_fit" else 1.0
    return BetaRate(share * k, share * (n_subjects + 1 - k))


def excess_p_value(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    several_each: bool = False,
    kind: NullKind | str = NullKind.HELD_OUT,
) -> float:
    """Probability of at least this many flags among n novel images, all compared with the *same* null.

    The flags are not independent: a null that came out low flags all images more easily (see `false_flag_rate`), so
    the count is beta-binomial. The n images must be independent: count near-duplicates once (`distinct_flags`).
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
    """Whether this look at a run shows more flags than a whole run of a non-memorizing generator would.

    Over all looks of a run, however many, the alarm is raised by mistake with probability at most `risk`. Half of it
    is spent once on the null, which all looks share: with probability 1 − risk / 2 it flags novel images at a rate of
    at most b, a quantile of its distribution (`false_flag_rate`). The other half is spread over the looks as
    6 / (π² t²): the count at look t is compared with Binomial(n, b) at that level. Looks may depend on each other in
    any way (callbacks draw the same latents every time); images of one look must not (`distinct_flags`).

    Args:
        flagged, n: Distinct flags and images of this look.
        look: 1 for the first of the run.
        alpha: Level of each flag.
        n_subjects, several_each, kind: Of the null.

    Raises:
        CalibrationError: If `look` is below 1.

    References:
        Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 1983 (alpha spending).
    """
    from scipy.stats import beta, binom

    if look < 1:
        raise CalibrationError(f"needed the number of a look, 1 for the first; {look} came.")
    rate = false_flag_rate(alpha, n_subjects, several_each, kind)
    if rate is None:
        return False
    most = beta.ppf(1 - risk / 2, *rate)
    return bool(binom.sf(flagged - 1, n, most) <= risk / 2 * 6 / (math.pi * look) ** 2)
