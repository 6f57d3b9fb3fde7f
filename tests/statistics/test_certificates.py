"""Rates with their bounds: exact intervals, and what they promise."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import betabinom, binom, binomtest

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import ROUNDING, conformal_p_values
from mi_callback.statistics.rates.certificates import CHEAP, certify, plan
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson, one_sided
from mi_callback.statistics.rates.copies import memorization_rate
from mi_callback.statistics.rates.false_flags import excess_p_value

memorization_rate_once = cache(memorization_rate)
certify_once = cache(certify)


def chances_to_flag_a_novel_image(rng: np.random.Generator, repetitions: int, n_subjects: int, k: int) -> np.ndarray:
    """That of each of many random nulls with one image a subject: it must beat all but k − 1 of them."""
    null = np.sort(rng.random((repetitions, n_subjects)), axis=1)
    return 1 - null[:, -k]


def within(misses: int, repetitions: int, error: float) -> bool:
    """Whether so many misses agree with a probability of at most `error`."""
    return bool(binom.sf(misses - 1, repetitions, error) > 1e-4)


# Definition


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 40), (17, 1000)])
def test_the_interval_is_that_of_scipy(count, n, confidence):
    expected = binomtest(count, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(count, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-10)
    assert one_sided(count, n, (1 - confidence) / 2) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_nothing_seen_leaves_every_rate_possible():
    assert clopper_pearson(0, 0) == (0, 1)


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


def test_the_certificate_of_no_flags_is_the_rule_of_three():
    certificate = certify(0, 1000, 0.001, 999)
    assert certificate.rate_upper == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert certificate.power_lower == 1


def test_flags_and_missed_copies_raise_the_certificate():
    by_flags = [certify(flagged, 500, 0.01, 99, (48, 50)).rate_upper for flagged in range(0, 501, 20)]
    by_power = [certify(3, 500, 0.01, 99, (found, 50)).rate_upper for found in range(51)]
    assert by_flags == sorted(by_flags)
    assert by_power == sorted(by_power, reverse=True)
    assert by_flags[-1] == by_power[0] == 1


def test_the_statement_names_what_it_rests_on_and_rounds_to_the_safe_side():
    assert certify(0, 1000, 0.001, 999, (99, 100)).statement == (
        "at most 0.35 % of samples are copies (95 % confidence; 0 of 1000 flagged at p ≤ 0.001 against 999 subjects), "
        "given that copies of the planted kinds are found with at least 93 % (99 of 100 were); "
        "assumes independent samples"
    )
    assumed = str(certify(2, 300, 0.05, 19, confidence=0.9))
    assert assumed.startswith("at most 1.8 % of samples are copies (90 % confidence; 2 of 300 flagged at p ≤ 0.05")
    assert "ASSUMING that every copy is flagged" in assumed
    assert str(certify(300, 300, 0.05, 19)).startswith("at most 100 % of")


# Promise: coverage


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
        claimed += memorization_rate_once(int((p <= alpha + ROUNDING).sum()), n, alpha, n_subjects, True).lower > 0
    assert within(claimed, repetitions, 0.025)


@pytest.mark.parametrize("novel_flagged", [0.0, 1.0])
@pytest.mark.parametrize(
    ("rate", "power", "planted"), [(0.02, 1.0, None), (0.02, 0.7, 30), (0.3, 0.95, 200), (0.5, 0.5, 10)]
)
def test_the_certificate_holds_even_where_no_novel_sample_is_ever_flagged(rate, power, planted, novel_flagged):
    rng = np.random.default_rng(11)
    repetitions, n, n_subjects = 4000, 400, 199
    false = novel_flagged * chances_to_flag_a_novel_image(rng, repetitions, n_subjects, 1)
    flagged = rng.binomial(n, rate * power + (1 - rate) * false).tolist()
    found = rng.binomial(planted or 0, power, repetitions).tolist()
    wrong = sum(
        certify_once(flags, n, 0.005, n_subjects, None if planted is None else (hits, planted)).rate_upper < rate
        for flags, hits in zip(flagged, found, strict=True)
    )
    assert within(wrong, repetitions, 0.05)


# Promise: plans


@pytest.mark.parametrize(
    ("bound", "power", "alpha", "assurance"), [(0.1, 1.0, None, 0.8), (0.3, 0.9, None, 0.9), (0.2, 1.0, 0.06, 0.7)]
)
def test_a_plan_is_the_smallest_of_all_that_were_tried_one_by_one(bound, power, alpha, assurance):
    found = plan(bound, alpha=alpha, power=power, assurance=assurance)
    error = 0.05 if power == 1 else 0.05 * 0.8

    @cache
    def allowed(n: int) -> int:
        return next(c for c in range(n + 1) if one_sided(c, n, error)[1] / power > bound) - 1

    def chance(n: int, k: int, n_subjects: int) -> float:
        return betabinom.cdf(allowed(n), n, k, n_subjects + 1 - k) if allowed(n) >= 0 else 0.0

    fewest = next(n for n in range(1, 1000) if one_sided(0, n, error)[1] / power <= bound)
    for size in range(1, 200):
        k, n_subjects = (1, size) if alpha is None else (size, math.ceil(size / alpha) - 1)
        enough = (n for n in range(1, CHEAP * fewest + 1) if chance(n, k, n_subjects) >= assurance)
        if (n := next(enough, None)) is not None:
            break
    assert (found.n_samples, found.n_subjects) == (n, n_subjects)
    assert found.alpha == pytest.approx(k / (n_subjects + 1))
    assert found.assurance == pytest.approx(chance(n, k, n_subjects))


@pytest.mark.parametrize("assurance", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("bound", [0.1, 0.05, 0.01, 0.003, 0.001])
def test_a_clean_generator_gets_the_planned_certificate_as_often_as_was_asked_for(bound, assurance):
    needed = plan(bound, assurance=assurance)
    rng = np.random.default_rng(0)
    repetitions, n = 4000, needed.n_samples
    false = rng.beta(1, needed.n_subjects, repetitions)

    def share(n: int) -> float:
        counts = rng.binomial(n, false).tolist()
        return np.mean([certify_once(c, n, needed.alpha, needed.n_subjects).rate_upper <= bound for c in counts])

    error = 4 * (assurance * (1 - assurance) / repetitions) ** 0.5
    assert share(n) == pytest.approx(needed.assurance, abs=error)
    assert assurance <= needed.assurance < assurance + 0.05
    assert share(int(0.3 * n)) < assurance - error
    assert certify(needed.flagged_at_most, n, needed.alpha, needed.n_subjects).rate_upper <= bound
    assert certify(needed.flagged_at_most + 1, n, needed.alpha, needed.n_subjects).rate_upper > bound
    assert certify(needed.flagged_at_most, n - 1, needed.alpha, needed.n_subjects).rate_upper > bound


def test_a_plan_for_real_nulls_works_with_one_and_with_several_images_a_subject():
    needed = plan(0.1)
    rng = np.random.default_rng(0)
    for images in (1, 3):
        got = []
        for _ in range(500):
            null = torch.from_numpy(np.repeat(rng.normal(size=needed.n_subjects), images))
            null += 0.3 * torch.from_numpy(rng.normal(size=len(null)))
            novel = torch.from_numpy(rng.normal(size=needed.n_samples) + 0.3 * rng.normal(size=needed.n_samples))
            p = conformal_p_values(novel, null, [str(i // images) for i in range(len(null))])
            flagged = int((p <= needed.alpha + ROUNDING).sum())
            got.append(certify_once(flagged, needed.n_samples, needed.alpha, needed.n_subjects).rate_upper <= 0.1)
        assert np.mean(got) >= 0.8 - 3 * (0.8 * 0.2 / 500) ** 0.5


def test_a_plan_at_a_given_level_keeps_to_it_with_a_level_that_the_null_resolves():
    needed = plan(0.01, alpha=0.003)
    assert 0.9 * 0.003 <= needed.alpha <= 0.003
    assert needed.alpha * (needed.n_subjects + 1) == pytest.approx(round(needed.alpha * (needed.n_subjects + 1)))
    assert certify(needed.flagged_at_most, needed.n_samples, needed.alpha, needed.n_subjects).rate_upper <= 0.01


def test_a_higher_confidence_assurance_or_a_lower_power_takes_more():
    usual = plan(0.01)
    for harder in (plan(0.01, confidence=0.99), plan(0.01, power=0.7)):
        assert harder.n_samples > usual.n_samples
    assert plan(0.01, assurance=0.95).n_subjects > usual.n_subjects
    assert plan(0.01, power=0.7).n_subjects > usual.n_subjects


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


@pytest.mark.parametrize("name", ["bound", "confidence", "alpha", "assurance", "power"])
@pytest.mark.parametrize("value", [-0.1, 0, 1.1])
def test_a_plan_refuses_what_is_no_probability(name, value):
    with pytest.raises(CalibrationError, match=rf"needed {name} in \(0, 1.* for a plan.*; {value} came"):
        plan(**{"bound": 0.1, name: value})


def test_a_plan_refuses_a_level_whose_false_flags_exceed_the_bound():
    with pytest.raises(
        CalibrationError, match=r"at alpha 0.02 false flags alone may exceed it. Use a smaller alpha, 0.0033"
    ):
        plan(0.01, alpha=0.02)


def test_a_plan_refuses_a_bound_beyond_every_hospital():
    with pytest.raises(CalibrationError, match=r"at most 1000000 held-out subjects .* the bound takes more"):
        plan(1e-7)
