"""How many flags novel images get: the definitions, and the alarm over a whole run."""

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from mi_callback.errors import CalibrationError
from mi_callback.statistics.rates.false_flags import alarm, excess_p_value, false_flag_rate

alarm_once = cache(alarm)


# Definition


@pytest.mark.parametrize("look", [1, 2, 50])
@pytest.mark.parametrize(
    ("n", "alpha", "n_subjects", "several_each", "k"),
    [(50, 0.05, 19, False, 1), (20, 0.1, 40, False, 4), (20, 0.1, 40, True, 5), (80, 0.05, 99, True, 5)],
)
def test_an_alarm_is_a_count_that_the_unluckiest_null_but_a_few_does_not_explain(
    n, alpha, n_subjects, several_each, k, look
):
    risk = 0.1
    # The rate at which a null flags novel images is the k-th of G uniform gaps: found by bisection of its distribution.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(math.comb(n_subjects, j) * middle**j * (1 - middle) ** (n_subjects - j) for j in range(k))
        low, high = (low, middle) if below <= risk / 2 else (middle, high)
    level = risk / 2 / look**2 / sum(1 / t**2 for t in range(1, 100_000))
    raised = []
    for flagged in range(n + 1):
        chance = sum(stats.binom.pmf(j, n, high) for j in range(flagged, n + 1))
        raised.append(alarm(flagged, n, look, alpha, n_subjects, several_each, risk))
        assert raised[-1] == (chance <= level)
    assert raised == sorted(raised)  # more flags never silence it
    assert not raised[0]
    assert raised[-1]


@pytest.mark.parametrize(("n_subjects", "alpha", "n"), [(19, 0.05, 50), (40, 0.1, 20), (99, 0.05, 200), (30, 0.05, 80)])
def test_the_excess_p_value_is_the_simulated_chance_of_as_many_flags(n_subjects, alpha, n):
    rng = np.random.default_rng(1)
    repetitions = 4000
    null = rng.random((repetitions, n_subjects))
    novel = rng.random((repetitions, n))
    at_least = np.stack([(row >= s[:, None]).sum(axis=1) for row, s in zip(null, novel, strict=True)])
    counts = ((1 + at_least) / (n_subjects + 1) <= alpha + 1e-12).sum(axis=1)
    for flagged in sorted({1, round(alpha * n), round(2 * alpha * n), round(4 * alpha * n)}):
        expected = (counts >= flagged).mean()
        error = math.sqrt(max(expected * (1 - expected), 1 / repetitions) / repetitions)
        assert abs(excess_p_value(flagged, n, alpha, n_subjects) - expected) <= 4 * error


@pytest.mark.parametrize(
    ("alpha", "n_subjects", "several", "kind", "expected"),
    [
        (0.05, 39, False, "held_out", (2, 38)),
        (0.06, 39, False, "held_out", (2, 38)),
        (0.06, 39, True, "held_out", (3, 37)),
        (0.05, 39, False, "cross_fit", (1, 19)),
        (0.05, 18, False, "held_out", None),  # nothing can be flagged
        (0.99, 18, True, "held_out", None),  # everything is
    ],
)
def test_the_false_flag_rate_is_a_beta_whose_mean_is_the_level_that_the_null_resolves(
    alpha, n_subjects, several, kind, expected
):
    rate = false_flag_rate(alpha, n_subjects, several, kind)
    assert rate == expected
    if rate is not None:
        assert rate.mean == pytest.approx(rate.a / (rate.a + rate.b))


# Promise


def test_no_excess_is_claimed_when_alpha_cannot_be_resolved_or_nothing_was_flagged():
    assert excess_p_value(10, 10, 0.05, 18) == 1
    assert excess_p_value(0, 10, 0.05, 19) == 1
    assert excess_p_value(10, 10, 0.05, 19) < 0.01


def counts_of_looks(rng, runs: int, looks: int, n: int, n_subjects: int, alpha: float, same: bool, copies: float = 0.0):
    """Flags at every look of each run `(runs, looks)`; a run has one null, and `same` latents at every look or new."""
    k = math.floor(alpha * (n_subjects + 1) + 1e-9)
    beaten = np.sort(rng.random((runs, n_subjects)))[:, -k, None, None]  # flagged: above all of the null but k − 1
    flags = (rng.random((runs, 1 if same else looks, n)) > beaten) | (rng.random((runs, looks, n)) < copies)
    return flags.sum(axis=2)


@pytest.mark.statistics
@pytest.mark.parametrize("risk", [0.05, 0.3])
@pytest.mark.parametrize("same", [True, False], ids=["same latents", "new latents"])
@pytest.mark.parametrize("n_subjects", [19, 40])
def test_a_run_without_memorization_raises_a_false_alarm_at_any_look_with_at_most_the_risk(n_subjects, same, risk):
    runs, looks, n = 1000, 50, 40
    counts = counts_of_looks(np.random.default_rng(n_subjects), runs, looks, n, n_subjects, 0.05, same)
    false = [
        any(alarm_once(int(flagged), n, t, 0.05, n_subjects, False, risk) for t, flagged in enumerate(run, 1))
        for run in counts
    ]
    assert np.mean(false) <= risk + 4 * math.sqrt(risk * (1 - risk) / runs)
    assert same or risk < 0.1 or any(false)  # it could have been raised


@pytest.mark.statistics
@pytest.mark.parametrize(("n_subjects", "power"), [(19, 0.75), (40, 0.98)])
def test_an_alarm_is_raised_within_three_looks_when_a_third_are_copies(n_subjects, power):
    runs, n = 200, 50
    counts = counts_of_looks(np.random.default_rng(0), runs, 3, n, n_subjects, 0.05, same=False, copies=0.3)
    raised = [any(alarm_once(int(f), n, t, 0.05, n_subjects) for t, f in enumerate(run, 1)) for run in counts]
    assert np.mean(raised) > power


def test_an_alarm_grows_deaf_with_looks_but_not_so_much():
    needed = [next(f for f in range(101) if alarm(f, 100, look, 0.05, 99)) for look in (1, 10, 100, 1000)]
    assert needed == sorted(needed)
    assert needed[-1] < 35
    assert needed[0] > 100 * 0.05


def test_no_alarm_where_alpha_cannot_be_resolved():
    assert not alarm(50, 50, 1, 0.05, 18)
    assert alarm(50, 50, 1, 0.05, 19)


# Refusal


def test_a_look_before_the_first_is_refused():
    with pytest.raises(CalibrationError, match="needed the number of a look, 1 for the first; 0 came"):
        alarm(5, 10, 0, 0.05, 19)
