"""Many images, many looks: which flags stand together, and when their number is more than chance."""

import math
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.null import ROUNDING, NullKind

Procedure = Literal["bh", "by"]


def reject(p_values: Tensor, fdr: float, procedure: Procedure = "bh") -> Tensor:
    """Which p-values to reject so that at most a share `fdr` of the rejections is false in expectation, bool `(n,)`.

    `bh` (Benjamini-Hochberg) holds for independent images and for conformal p-values that share a null (Bates et al.
    2023); `by` (Benjamini-Yekutieli) holds whatever the dependence, and pays for it with a factor Σ 1/i.

    References:
        Benjamini and Hochberg, JRSS-B 1995; Benjamini and Yekutieli, Ann. Statist. 2001.

    Example:
        >>> reject(torch.tensor([0.01, 0.02, 0.9]), fdr=0.05).tolist()
        [True, True, False]
    """
    ordered, order = p_values.to(torch.float64).sort()
    n = len(p_values)
    ranks = torch.arange(1, n + 1, dtype=torch.float64, device=p_values.device)
    levels = fdr * ranks / n
    if procedure == "by":
        levels = levels / ranks.reciprocal().sum()
    below = (ordered <= levels + ROUNDING).nonzero()
    rejected = torch.zeros(n, dtype=torch.bool, device=p_values.device)
    if len(below):
        rejected[order[: int(below[-1]) + 1]] = True
    return rejected


def groups_of_duplicates(n: int, pairs: Tensor) -> Tensor:
    """Number of the group of each of n images, where `pairs` `(k, 2)` of them are near-duplicates; `(n,)`.

    Near-duplicates of one another (a collapsed generator) are one observation, not many. An image joins the first
    one, in their order, that it duplicates and that leads a group, and else leads one itself. Chains do not count:
    in a large set they would link everything.
    """
    neighbours: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    group = [-1] * n
    leaders = 0
    for image in range(n):
        if group[image] < 0:
            for member in (image, *neighbours.get(image, ())):
                if group[member] < 0:
                    group[member] = leaders
            leaders += 1
    return torch.tensor(group, dtype=torch.long)


def distinct_flags(flagged: Tensor, group: Tensor) -> tuple[int, int]:
    """Flags and images where every group of near-duplicates counts once: its mean, their sum rounded down."""
    _, place, size = group.unique(return_inverse=True, return_counts=True)
    share = torch.zeros(len(size), dtype=torch.float64).index_add_(0, place, flagged.to(torch.float64)) / size
    return math.floor(float(share.sum()) + ROUNDING), len(size)


def false_flag_rate(
    alpha: float, n_subjects: int, several_each: bool = False, kind: NullKind = "held_out"
) -> tuple[float, float] | None:
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
    k = math.ceil(level - ROUNDING) if several_each else math.floor(level + ROUNDING)
    if not 1 <= k <= n_subjects:
        return None
    share = 0.5 if kind == "cross_fit" else 1.0
    return share * k, share * (n_subjects + 1 - k)


def excess_p_value(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    several_each: bool = False,
    kind: NullKind = "held_out",
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
    kind: NullKind = "held_out",
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
