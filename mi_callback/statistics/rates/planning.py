"""How many samples and held-out subjects does a certificate take?"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mi_callback.errors import CalibrationError
from mi_callback.statistics.rates.copies import POWER_BUDGET

CHEAP = 10
"""A plan takes up to this many times the fewest samples that could show the bound, to save held-out subjects: that
alone divides the number of subjects by five (bound 0.01: 231 subjects and 2902 samples, not 1196 and 299)."""

MOST_SUBJECTS = 1_000_000
"""Held-out subjects above which a plan is given up."""


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


@dataclass(frozen=True)
class _Calibration:
    """A null of G subjects at whose level k / (G + 1) images are flagged."""

    k: int
    n_subjects: int

    @classmethod
    def of(cls, size: int, alpha: float | None) -> "_Calibration":
        """The null of a size, which is G, or where the level is given k."""
        return cls(1, size) if alpha is None else cls(size, max(1, math.ceil(size / alpha - 1e-9) - 1))

    @property
    def level(self) -> float:
        return self.k / (self.n_subjects + 1)

    def chance_of_at_most(self, allowed: int, n: int) -> float:
        """Probability of at most so many false flags among n novel images, over nulls (beta-binomial)."""
        from scipy.stats import betabinom

        return float(betabinom.cdf(allowed, n, self.k, self.n_subjects + 1 - self.k))


def plan(
    bound: float,
    confidence: float = 0.95,
    alpha: float | None = None,
    power: float = 1.0,
    assurance: float = 0.8,
) -> Plan:
    r"""How many samples and held-out subjects are needed to certify at most a share `bound` of copies.

    A generator that copies nothing still gets false flags, a beta-binomial number of them, and each one raises the
    limit. The certificate (`certificates.certify`) stays within the bound while at most c of n samples are flagged; for
    every c there is a smallest n, the first with

    .. math:: P(X \leq c) \leq e, \quad X \sim \mathrm{Binomial}(n, \mathrm{bound} \cdot \mathrm{power})

    at the error e of the certificate, and the smallest c whose probability reaches the assurance is the plan.

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

    Returns:
        Numbers of samples and subjects, the level, and the flags that may be among them.

    Raises:
        CalibrationError: If a number is out of range, or alpha is too large for the bound.

    References:
        Clopper and Pearson, Biometrika 1934 (the limit); Bates et al., Ann. Statist. 2023 (false flags given the null).

    Example:
        >>> needed = plan(bound=0.01)
        >>> needed.n_samples, needed.n_subjects, round(needed.alpha, 4), needed.flagged_at_most
        (2902, 231, 0.0043, 20)
    """
    _check(bound, confidence, alpha, power, assurance)
    error = (1 - confidence) * (1 if power == 1 else 1 - POWER_BUDGET)
    samples = _samples_by_flags(bound * power, error)
    most = len(samples) - 1

    def suffices(size: int) -> bool:
        return _Calibration.of(size, alpha).chance_of_at_most(most, samples[most]) >= assurance

    size = 1
    while not suffices(size):
        size *= 2
        if _Calibration.of(size, alpha).n_subjects > MOST_SUBJECTS:
            raise CalibrationError(_too_many(bound, alpha, power))
    null = _Calibration.of(_smallest(suffices, size // 2 + 1, size), alpha)
    chances = [null.chance_of_at_most(allowed, n) for allowed, n in enumerate(samples)]
    allowed = next(c for c, chance in enumerate(chances) if chance >= assurance)
    return Plan(samples[allowed], null.n_subjects, null.level, allowed, chances[allowed])


def _check(bound: float, confidence: float, alpha: float | None, power: float, assurance: float) -> None:
    for name, value in (("bound", bound), ("confidence", confidence), ("assurance", assurance)):
        if not 0 < value < 1:
            raise CalibrationError(f"needed {name} in (0, 1) for a plan; {value} came.")
    if not 0 < power <= 1:
        raise CalibrationError(
            f"needed power in (0, 1] for a plan; {power} came. Without power no share of copies is excluded."
        )
    if alpha is not None and not 0 < alpha < 1:
        raise CalibrationError(f"needed alpha in (0, 1) for a plan, or None; {alpha} came.")


def _too_many(bound: float, alpha: float | None, power: float) -> str:
    cause, remedy = (
        ("the bound takes more", "Use a larger bound")
        if alpha is None
        else (
            f"at alpha {alpha:g} false flags alone may exceed it",
            f"Use a smaller alpha, {bound * power / 3:.2g} or below",
        )
    )
    return (
        f"needed at most {MOST_SUBJECTS} held-out subjects to certify a rate of {bound:g} at power {power:g}; {cause}. "
        f"{remedy}, or less assurance."
    )


def _samples_by_flags(rate: float, error: float) -> list[int]:
    """The fewest samples of which 0, 1, 2, … flags have an upper limit of at most `rate`, as long as they are cheap."""
    samples = [_fewest_samples(0, rate, error)]
    while (following := _fewest_samples(len(samples), rate, error)) <= CHEAP * samples[0]:
        samples.append(following)
    return samples


def _fewest_samples(allowed: int, rate: float, error: float) -> int:
    """Smallest n for which `allowed` flags have an upper limit (`one_sided`) of at most `rate`."""
    from scipy.special import bdtr

    def suffices(n: int) -> bool:
        return bool(bdtr(allowed, n, rate) <= error)

    most = allowed + 1
    while not suffices(most):
        most *= 2
    return _smallest(suffices, allowed + 1, most)


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Smallest integer in [low, high] for which `holds`, which is true at `high` and monotone."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
