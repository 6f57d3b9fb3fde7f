"""The Memorization Index and the Overfit/Novelty Index."""

import math

import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics.indices import OniScale, memorization_index, overfit_novelty_index
from mi_callback.statistics.null import Null

pytestmark = pytest.mark.numeric

# Definition


def test_the_memorization_index_counts_null_deviations():
    null = Null(torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64), None, "held_out")
    values = [0.1, 0.3, 0.9]
    mean, std = 0.3, math.sqrt(0.08 / 3)
    found = memorization_index(torch.tensor(values, dtype=torch.float64), null)
    assert found.tolist() == pytest.approx([(value - mean) / std for value in values])


def test_the_index_is_bounded_on_either_scale():
    mi = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], dtype=torch.float64)
    assert overfit_novelty_index(mi, "unit").tolist() == pytest.approx([0, 0, 0, math.tanh(1), 1])
    assert overfit_novelty_index(mi, "paper").tolist() == pytest.approx([1, math.tanh(1), 0, -math.tanh(1), -1])


# Refusal


def test_an_unknown_scale_is_refused():
    with pytest.raises(CalibrationError, match=r"needed oni_scale out of \['unit', 'paper'\]; 'log' came"):
        overfit_novelty_index(torch.zeros(1), "log")


def test_a_scale_is_a_string_too():
    mi = torch.tensor([0.5])
    assert overfit_novelty_index(mi, OniScale.PAPER) == overfit_novelty_index(mi, "paper")
    assert f"{OniScale.UNIT}" == "unit"
