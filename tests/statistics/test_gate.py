"""May it be released? The verdict, or limits that were set."""

from dataclasses import replace

import pytest
import torch

from mi_callback.errors import OptionError
from mi_callback.statistics.flagging import Flagging, FlagRule, NullSummary
from mi_callback.statistics.gate import Gate, judge
from mi_callback.statistics.null import NullKind
from mi_callback.statistics.power import Power
from mi_callback.statistics.verdict import Findings

POWER = Power({"exact": torch.ones(64, dtype=torch.bool)}, {"exact": torch.ones(64, dtype=torch.bool)}, 0.01)


def findings(p_values, people=199, kind=NullKind.HELD_OUT, power=POWER, difference=None, alpha=0.01):
    p, rule = torch.tensor(p_values, dtype=torch.float64), FlagRule(alpha)
    null = NullSummary(kind, people, people, difference=difference)
    return Findings(Flagging(p, rule.flag(p), torch.arange(len(p)), rule, null), power=power)


CLEAN, COPIES = findings([0.5] * 400), findings([0.005] * 40 + [0.5] * 360)


@pytest.mark.parametrize(
    ("found", "passed"), [(CLEAN, True), (COPIES, False), (findings([0.5] * 400, people=20), None)]
)
def test_without_limits_the_verdict_decides(found, passed):
    result = judge(found, Gate())
    assert result.passed is passed
    assert [condition.name for condition in result.conditions] == ["verdict"]


@pytest.mark.parametrize(
    ("gate", "found", "passed"),
    [
        (Gate(rate_upper=0.02), CLEAN, True),
        (Gate(rate_upper=0.005), CLEAN, False),
        (Gate(certificate=0.02), CLEAN, True),
        (Gate(certificate=0.005), CLEAN, False),
        (Gate(rate_upper=0.3), COPIES, True),  # few copies may be acceptable
        (Gate(rate_upper=0.3, certificate=0.05), COPIES, False),
        (Gate(fdr=0.1), CLEAN, None),  # 199 people cannot tell a single one of 400 at that rate
        (Gate(fdr=0.1), COPIES, False),
        (Gate(fdr=0.1), findings([0.5] * 400, people=3999), True),
    ],
)
def test_limits_decide(gate, found, passed):
    assert judge(found, gate).passed is passed


def test_the_values_are_those_of_the_flagging():
    upper, certificate = judge(COPIES, Gate(rate_upper=0.2, certificate=0.2)).conditions
    assert upper.value == COPIES.flagging.rate_interval(POWER).upper
    assert certificate.value == COPIES.flagging.certificate(POWER).rate_upper
    assert certificate.value < upper.value


@pytest.mark.parametrize("gate", [Gate(rate_upper=0.5), Gate(certificate=0.5), Gate(fdr=0.1)])
@pytest.mark.parametrize(
    "found",
    [
        findings([0.5] * 400, kind=NullKind.TRAIN_HALVES),
        findings([0.5] * 400, difference="another scanner"),
        findings([0.5] * 400, people=20),
    ],
    ids=["not calibrated", "another scanner", "few people"],
)
def test_what_cannot_be_decided_is_no_pass(gate, found):
    assert judge(found, gate).passed is None


def test_a_limit_on_a_power_that_was_not_measured_is_no_pass_but_may_fail():
    blind = replace(CLEAN, power=None)
    assert judge(blind, Gate(certificate=0.05)).passed is None
    assert judge(blind, Gate(certificate=0.001)).passed is False


@pytest.mark.parametrize("name", ["rate_upper", "certificate", "fdr"])
@pytest.mark.parametrize("limit", [0, 1, 2, -1, "x", float("nan"), True])
def test_limits_that_are_none_are_refused(name, limit):
    with pytest.raises(OptionError, match=rf"needed gate\.{name} between 0 and 1"):
        Gate(**{name: limit})
