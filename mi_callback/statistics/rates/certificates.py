"""An upper limit of the share of copies, in a sentence with all that it rests on."""

import math
from dataclasses import dataclass

from mi_callback.statistics.null import NullKind
from mi_callback.statistics.rates.copies import PlantedCount, check_counts, upper_limit


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
    power: PlantedCount | None
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
        return text + (
            f"given that copies of the planted kinds are found with at least {_percent(self.power_lower, up=False)} "
            f"({self.power.found} of {self.power.planted} were); assumes independent samples"
        )

    def __str__(self) -> str:
        return self.statement


def certify(
    flagged: int,
    n: int,
    alpha: float,
    n_subjects: int,
    power: tuple[int, int] | None = None,
    confidence: float = 0.95,
    kind: NullKind | str = NullKind.HELD_OUT,
) -> Certificate:
    """Limit the share of copies from above, one-sided: `copies.upper_limit` with the whole error.

    It needs no assumption on the null or on novel samples, which can only add flags. It does need the power: a
    copy of a kind that was not planted, or planted more easily found than real ones are, is not covered.

    Args:
        flagged: Samples with p ≤ alpha.
        n: Samples, independent of each other; near-duplicates count once.
        alpha: Level of each flag.
        n_subjects: Subjects in the null.
        power: Planted copies found, and planted, at the same alpha and against the same null; None to *assume* that
            every copy is flagged.
        confidence: Of the limit.
        kind: How the null was made.

    Returns:
        The limit, with what it rests on; print it.

    Raises:
        CalibrationError: As `copies.memorization_rate`.

    References:
        Clopper and Pearson, Biometrika 1934 (both limits).

    Example:
        >>> certificate = certify(flagged=0, n=1000, alpha=0.001, n_subjects=999, power=(99, 100))
        >>> round(certificate.rate_upper, 4), round(certificate.power_lower, 2)
        (0.0034, 0.94)
        >>> certify(flagged=0, n=1000, alpha=0.001, n_subjects=999).statement[:35]
        'at most 0.3 % of samples are copies'
    """
    check_counts(flagged, n, alpha, n_subjects, power, confidence, kind)
    limit = upper_limit(flagged, n, power, 1 - confidence)
    counted = None if power is None else PlantedCount(*power)
    return Certificate(limit.rate, confidence, n, flagged, alpha, n_subjects, counted, limit.power)


def _percent(share: float, up: bool) -> str:
    """Two significant digits, rounded to one side."""
    if share in (0, 1):
        return f"{100 * share:g} %"
    step = 10.0 ** (math.floor(math.log10(share)) - 1)
    digits = math.ceil(share / step - 1e-9) if up else math.floor(share / step + 1e-9)
    return f"{100 * digits * step:.3g} %"
