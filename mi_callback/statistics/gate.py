"""May this be released? The verdict, or limits that were set beforehand, and what decides where they cannot."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from mi_callback.arguments import probability
from mi_callback.errors import CalibrationError, OptionError
from mi_callback.statistics.flagging import FlagRule
from mi_callback.statistics.verdict import Findings, Verdict, doubts, verdict


@dataclass(frozen=True)
class Gate:
    """Limits that a release has to keep. Without any the verdict decides.

    Args:
        rate_upper: Largest acceptable upper limit of the share of copies, that of the 95 % interval (`rate_upper`).
        certificate: The same of the certificate, whose 95 % are one-sided.
        fdr: False discovery rate (Benjamini-Hochberg) at which no sample may be flagged.

    Raises:
        OptionError: If a limit is not between 0 and 1.
    """

    rate_upper: float | None = None
    certificate: float | None = None
    fdr: float | None = None

    def __post_init__(self) -> None:
        for name in ("rate_upper", "certificate", "fdr"):
            if (limit := getattr(self, name)) is not None:
                probability(f"gate.{name}", limit, OptionError)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that were set, by name."""
        named = {"rate_upper": self.rate_upper, "certificate": self.certificate, "fdr": self.fdr}
        return {name: limit for name, limit in named.items() if limit is not None}


class Condition(NamedTuple):
    """One condition of a gate.

    Attributes:
        name: `verdict`, or that of a limit.
        limit, value: What was set and what was measured; None where there is no number.
        passed: None where it cannot be decided.
        said: The same in a sentence.
    """

    name: str
    limit: float | None
    value: float | None
    passed: bool | None
    said: str


@dataclass(frozen=True)
class GateResult:
    """Conditions of a gate, each with its outcome."""

    conditions: tuple[Condition, ...]

    @property
    def passed(self) -> bool | None:
        """False if any condition failed; None if none did, but one cannot be decided."""
        outcomes = [condition.passed for condition in self.conditions]
        return False if False in outcomes else None if None in outcomes else True


def judge(findings: Findings, gate: Gate) -> GateResult:
    """Hold what was found against the limits of a gate; without limits the verdict decides.

    With limits a verdict of *memorized* within them passes: few copies may be acceptable. An inconclusive one never
    passes, nor does a limit that rests on a power which was not measured.

    Args:
        findings: All that was found, in numbers.
        gate: The limits.

    Example:
        >>> from mi_callback.statistics.flagging import Flagging, FlagRule, NullSummary
        >>> from mi_callback.statistics.null import NullKind
        >>> p, rule = torch.full((100,), 0.5), FlagRule(0.05)
        >>> null = NullSummary(NullKind.HELD_OUT, n_subjects=39, n_images=39)
        >>> judge(Findings(Flagging(p, rule.flag(p), torch.arange(100), rule, null)), Gate()).passed
        True
    """
    found = verdict(findings)
    if not gate.limits:
        outcome = {Verdict.CLEAN: True, Verdict.MEMORIZED: False}.get(found)
        return GateResult((Condition("verdict", None, None, outcome, _said_of_verdict(findings)),))
    conditions = [_JUDGES[name](findings, limit) for name, limit in gate.limits.items()]
    if found is Verdict.INCONCLUSIVE:
        conditions.append(Condition("verdict", None, None, None, _said_of_verdict(findings)))
    return GateResult(tuple(conditions))


def _said_of_verdict(findings: Findings) -> str:
    return "; ".join([f"the verdict is {verdict(findings)}", *doubts(findings)])


def _judge_rate(findings: Findings, limit: float) -> Condition:
    return _judge_upper("rate_upper", findings, limit, lambda: findings.flagging.rate_interval(findings.power).upper)


def _judge_certificate(findings: Findings, limit: float) -> Condition:
    return _judge_upper(
        "certificate", findings, limit, lambda: findings.flagging.certificate(findings.power).rate_upper
    )


def _judge_upper(name: str, findings: Findings, limit: float, measure: Callable[[], float]) -> Condition:
    try:
        value = measure()
    except CalibrationError as error:
        return Condition(name, limit, None, None, f"no upper limit of the share of copies follows: {error}")
    passed: bool | None = value <= limit
    said = f"at most {100 * value:.4g} % of the samples are copies; {100 * limit:.4g} % were allowed"
    if passed and not findings.flagging.calibrated:
        passed, said = None, f"{said}, but p-values against this null do not mean what they say"
    elif passed and findings.power is None:
        passed, said = None, f"{said}, if every copy is seen: no copies were planted to measure that (power)"
    return Condition(name, limit, value, passed, said)


def _judge_discoveries(findings: Findings, limit: float) -> Condition:
    flagging = findings.flagging
    rule = FlagRule(flagging.rule.alpha, limit)
    again = replace(flagging, rule=rule, flagged=rule.flag(flagging.p_value))
    said = f"{again.count} samples are flagged at a false discovery rate of {limit:g}"
    if not flagging.null.kind.calibrated or flagging.null.difference is not None:
        return Condition("fdr", limit, None, None, f"{said}, but p-values against this null do not mean what they say")
    if not again.resolvable:
        return Condition(
            "fdr", limit, None, None, f"{said}, but there are too few held-out people to flag a single one"
        )
    return Condition("fdr", limit, float(again.count), again.count == 0, said)


_JUDGES: dict[str, Callable[[Findings, float], Condition]] = {
    "rate_upper": _judge_rate,
    "certificate": _judge_certificate,
    "fdr": _judge_discoveries,
}
