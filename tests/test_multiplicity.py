"""Many images, many looks: the definitions, and the rates that they promise."""

import math

import numpy as np
import pytest
import torch

from mi_callback.calibration import conformal_p_values
from mi_callback.multiplicity import excess_p_value, reject


@pytest.mark.parametrize("fdr", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_benjamini_hochberg_rejects_up_to_the_last_p_value_below_its_line(fdr, seed):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(20), rng.random(10) / 50])
    rng.shuffle(p)
    ordered = sorted(p)
    last = max((i for i in range(1, 31) if ordered[i - 1] <= fdr * i / 30), default=0)
    expected = [bool(last) and value <= ordered[last - 1] for value in p]
    assert reject(torch.from_numpy(p), fdr).tolist() == expected


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


def test_no_excess_is_claimed_when_alpha_cannot_be_resolved_or_nothing_was_flagged():
    assert excess_p_value(10, 10, 0.05, 18) == 1
    assert excess_p_value(0, 10, 0.05, 19) == 1
    assert excess_p_value(10, 10, 0.05, 19) < 0.01


def test_false_discoveries_stay_below_the_rate_that_was_asked_for():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(600):
        null = torch.from_numpy(rng.normal(size=200))
        queries = torch.from_numpy(np.concatenate([rng.normal(size=40), rng.normal(6, 0.5, size=10)]))
        flagged = reject(conformal_p_values(queries, null), 0.2)
        shares.append(float(flagged[:40].sum()) / max(1, int(flagged.sum())))
    assert np.mean(shares) <= 0.2 + 4 * np.std(shares) / 600**0.5
    assert flagged[40:].all()


def test_the_order_of_images_is_irrelevant(generator):
    p = torch.rand(15, generator=generator)
    assert torch.equal(reject(p.flip(0), 0.5).flip(0), reject(p, 0.5))
