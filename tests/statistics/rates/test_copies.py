"""What share of the samples are copies: limits that hold, and an estimate within them."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import betabinom, binom

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import at_most, conformal_p_values
from mi_callback.statistics.rates.certificates import certify
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson, one_sided
from mi_callback.statistics.rates.copies import memorization_rate
from mi_callback.statistics.rates.false_flags import excess_p_value

pytestmark = pytest.mark.numeric

memorization_rate_once = cache(memorization_rate)


def chances_to_flag_a_novel_image(rng: np.random.Generator, repetitions: int, n_subjects: int, k: int) -> np.ndarray:
    """That of each of many random nulls with one image a subject: it must beat all but k − 1 of them."""
    null = np.sort(rng.random((repetitions, n_subjects)), axis=1)
    return 1 - null[:, -k]


def within(misses: int, repetitions: int, error: float) -> bool:
    """Whether so many misses agree with a probability of at most `error`."""
    return bool(binom.sf(misses - 1, repetitions, error) > 1e-4)


# Definition


@pytest.mark.parametrize(
    ("flagged", "n", "alpha", "n_subjects"),
    [(12, 100, 0.01, 199), (40, 200, 0.05, 99), (5, 5, 0.05, 39), (9, 60, 0.1, 9)],
)
def test_at_the_lower_limit_as_many_flags_have_just_the_permitted_probability(flagged, n, alpha, n_subjects):
    k = math.floor(alpha * (n_subjects + 1) + 1e-9)
    lower = memorization_rate(flagged, n, alpha, n_subjects).lower

    def chance(rate: float) -> float:  # over the number of copies, then over that of false flags among the others
        total = 0.0
        for copies in range(n + 1):
            others = betabinom.sf(flagged - copies - 1, n - copies, k, n_subjects + 1 - k) if copies < flagged else 1
            total += binom.pmf(copies, n, rate) * others
        return total

    assert chance(lower) == pytest.approx(0.025, rel=1e-3) if lower else chance(0) > 0.025


@pytest.mark.parametrize("several_each", [False, True])
def test_a_share_of_copies_is_claimed_exactly_where_the_number_of_flags_is_an_excess(several_each):
    for flagged in range(0, 60, 3):
        lower = memorization_rate(flagged, 150, 0.055, 79, several_each).lower
        assert (lower > 0) == (excess_p_value(flagged, 150, 0.055, 79, several_each) <= 0.025)


def test_the_upper_limit_is_that_of_the_flags_over_that_of_the_power():
    assert memorization_rate(7, 200, 0.01, 99).upper == pytest.approx(clopper_pearson(7, 200)[1])
    expected = one_sided(7, 200, 0.025 * 0.8)[1] / one_sided(45, 50, 0.025 * 0.2)[0]
    assert memorization_rate(7, 200, 0.01, 99, power=(45, 50)).upper == pytest.approx(expected)
    assert memorization_rate(7, 200, 0.01, 99, power=(0, 50)).upper == 1


def test_the_estimate_is_that_of_rogan_and_gladen_within_the_limits():
    estimate = memorization_rate(30, 200, 0.05, 99, power=(45, 50)).estimate
    assert estimate == pytest.approx((30 / 200 - 0.05) / (45 / 50 - 0.05))
    assert memorization_rate(0, 200, 0.05, 99).estimate == 0
    for flagged in (0, 1, 7, 150, 200):
        for power in (None, (0, 9), (1, 90), (9, 9)):
            lower, value, upper = memorization_rate(flagged, 200, 0.05, 99, power=power)
            assert 0 <= lower <= value <= upper <= 1


# Promise


@pytest.mark.statistics
@pytest.mark.parametrize("rate", [0, 0.003, 0.03, 0.4])
@pytest.mark.parametrize("planted", [None, 40])
@pytest.mark.parametrize(
    ("n_subjects", "k", "n", "confidence"), [(39, 2, 300, 0.95), (99, 1, 60, 0.8), (19, 1, 100, 0.9)]
)
def test_the_interval_covers_the_share_of_copies(n_subjects, k, n, confidence, planted, rate):
    rng = np.random.default_rng(n)
    repetitions, alpha = 4000, k / (n_subjects + 1)
    power = 1.0 if planted is None else 0.85
    false = chances_to_flag_a_novel_image(rng, repetitions, n_subjects, k)
    flagged = rng.binomial(n, rate * power + (1 - rate) * false)
    found = rng.binomial(planted or 0, power, repetitions)
    above = below = 0
    for flags, hits in zip(flagged.tolist(), found.tolist(), strict=True):
        plants = None if planted is None else (hits, planted)
        lower, _, upper = memorization_rate_once(flags, n, alpha, n_subjects, False, plants, confidence)
        above, below = above + (lower > rate), below + (upper < rate)
    assert within(above, repetitions, (1 - confidence) / 2)
    assert within(below, repetitions, (1 - confidence) / 2)
    if rate == 0:  # the lower limit is exact there, up to the steps of a count
        assert above >= repetitions * (1 - confidence) / 2 / 3


@pytest.mark.statistics
@pytest.mark.parametrize("similar", [0.0, 0.2, 3.0])
def test_with_several_images_a_subject_no_copies_are_claimed_where_there_are_none(similar):
    rng = np.random.default_rng(3)
    repetitions, n, alpha, n_subjects, claimed = 800, 200, 0.055, 39, 0
    for _ in range(repetitions):
        sizes = rng.integers(1, 12, n_subjects)
        subject = np.repeat(np.arange(n_subjects), sizes)
        null = rng.normal(size=n_subjects)[subject] + similar * rng.normal(size=len(subject))
        novel = rng.normal(size=n) + similar * rng.normal(size=n)
        p = conformal_p_values(torch.from_numpy(novel), torch.from_numpy(null), [str(g) for g in subject])
        claimed += memorization_rate_once(int(at_most(p, alpha).sum()), n, alpha, n_subjects, True).lower > 0
    assert within(claimed, repetitions, 0.025)


# Refusal


@pytest.mark.parametrize("function", [memorization_rate, certify])
def test_what_cannot_be_is_refused(function):
    with pytest.raises(CalibrationError, match=r"at least 99 held_out subjects for a rate of copies at alpha 0.01; 98"):
        function(0, 10, 0.01, 98)
    with pytest.raises(CalibrationError, match="at least 199 cross_fit subjects"):
        function(0, 10, 0.01, 198, kind="cross_fit")
    with pytest.raises(CalibrationError, match="calibrated null for a rate of copies; train_halves came"):
        function(0, 10, 0.01, 999, kind="train_halves")
    with pytest.raises(CalibrationError, match="0 ≤ flagged ≤ n and n ≥ 1 for a rate of copies; 11 of 10 came"):
        function(11, 10, 0.01, 99)
    with pytest.raises(CalibrationError, match="0 of 0 came"):
        function(0, 0, 0.01, 99)
    with pytest.raises(CalibrationError, match=r"alpha in \(0, 1\) for a rate of copies; 1 came"):
        function(0, 10, 1, 99)
    with pytest.raises(CalibrationError, match=r"confidence in \(0, 1\); 95 came"):
        function(0, 10, 0.01, 99, confidence=95)
    for power in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(CalibrationError, match=rf"planted ≥ 1; \({power[0]}, {power[1]}\) came"):
            function(0, 10, 0.01, 99, power=power)
