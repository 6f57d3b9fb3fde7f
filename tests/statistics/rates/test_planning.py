"""Plans: the smallest that do, and certificates as often as was asked for."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import at_most, conformal_p_values
from mi_callback.statistics.rates.certificates import certify
from mi_callback.statistics.rates.clopper_pearson import one_sided
from mi_callback.statistics.rates.planning import CHEAP, plan

certify_once = cache(certify)


# Definition


@pytest.mark.parametrize(
    ("bound", "power", "alpha", "assurance"), [(0.1, 1.0, None, 0.8), (0.3, 0.9, None, 0.9), (0.2, 1.0, 0.06, 0.7)]
)
def test_a_plan_is_the_smallest_of_all_that_were_tried_one_by_one(bound, power, alpha, assurance):
    found = plan(bound, alpha=alpha, power=power, assurance=assurance)
    error = 0.05 if power == 1 else 0.05 * 0.8

    fewest = next(n for n in range(1, 1000) if one_sided(0, n, error).upper / power <= bound)
    allowed = [-1]  # flags of n samples that leave the limit within the bound; no fewer for one sample more
    for n in range(1, CHEAP * fewest + 1):
        c = allowed[-1]
        while one_sided(c + 1, n, error).upper / power <= bound:
            c += 1
        allowed.append(c)

    def chance(n: int, k: int, n_subjects: int) -> float:
        return betabinom.cdf(allowed[n], n, k, n_subjects + 1 - k) if allowed[n] >= 0 else 0.0

    for size in range(1, 200):
        k, n_subjects = (1, size) if alpha is None else (size, math.ceil(size / alpha) - 1)
        enough = (n for n in range(1, CHEAP * fewest + 1) if chance(n, k, n_subjects) >= assurance)
        if (n := next(enough, None)) is not None:
            break
    assert (found.n_samples, found.n_subjects) == (n, n_subjects)
    assert found.alpha == pytest.approx(k / (n_subjects + 1))
    assert found.assurance == pytest.approx(chance(n, k, n_subjects))


# Promise


@pytest.mark.statistics
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


@pytest.mark.statistics
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
            flagged = int(at_most(p, needed.alpha).sum())
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
