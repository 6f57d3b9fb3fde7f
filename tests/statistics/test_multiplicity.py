"""Which p-values to reject: the definitions, and the false discovery rate that they promise."""

import math

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import conformal_p_values
from mi_callback.statistics.multiplicity import Procedure, benjamini_hochberg, benjamini_yekutieli, reject

pytestmark = pytest.mark.numeric

# Definition


@pytest.mark.parametrize("procedure", ["bh", "by"])
@pytest.mark.parametrize("fdr", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_rejected_are_all_up_to_the_last_p_value_below_the_line(fdr, seed, procedure):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(20), rng.random(10) / 50])
    rng.shuffle(p)
    ordered = sorted(p)
    price = 1 if procedure == "bh" else sum(1 / i for i in range(1, 31))
    last = max((i for i in range(1, 31) if ordered[i - 1] <= fdr * i / 30 / price), default=0)
    expected = [bool(last) and value <= ordered[last - 1] for value in p]
    assert reject(torch.from_numpy(p), fdr, procedure).tolist() == expected
    assert reject(torch.from_numpy(p), fdr, Procedure(procedure)).tolist() == expected
    by_name = {"bh": benjamini_hochberg, "by": benjamini_yekutieli}[procedure]
    assert by_name(torch.from_numpy(p), fdr).tolist() == expected


def test_of_nothing_nothing_is_rejected():
    assert reject(torch.empty(0), 0.1).tolist() == []


# Promise


@pytest.mark.statistics
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


@pytest.mark.parametrize("fdr", [0.05, 0.2, 0.9])
def test_what_benjamini_yekutieli_rejects_benjamini_hochberg_rejects_too(fdr):
    smaller = 0
    for seed in range(30):
        p = torch.rand(40, generator=torch.Generator().manual_seed(seed)) ** 3
        by, bh = reject(p, fdr, "by"), reject(p, fdr, "bh")
        assert not (by & ~bh).any()
        smaller += int(by.sum()) < int(bh.sum())
    assert smaller > 0


def p_values_as_dependent_as_can_be(rng: np.random.Generator, n: int, level: float) -> np.ndarray:
    """Uniform p-values of n novel images: a random j of them lie in part j of n of [0, level] (Guo and Rao, 2008)."""
    p = level + (1 - level) * rng.random(n)
    j = int(np.searchsorted(np.cumsum([level / i for i in range(1, n + 1)]), rng.random())) + 1
    if j <= n:
        p[rng.choice(n, j, replace=False)] = (j - rng.random()) * level / n
    return p


@pytest.mark.statistics
def test_benjamini_yekutieli_holds_under_the_dependence_that_breaks_benjamini_hochberg():
    n, fdr, repetitions = 30, 0.2, 1500
    price = sum(1 / i for i in range(1, n + 1))
    rng = np.random.default_rng(0)
    rates, everything = {}, []
    for procedure, level in (("bh", fdr), ("by", fdr / price)):
        draws = [p_values_as_dependent_as_can_be(rng, n, level) for _ in range(repetitions)]
        # All are novel: any rejection is a false discovery rate of 1.
        rates[procedure] = np.mean([bool(reject(torch.from_numpy(p), fdr, procedure).any()) for p in draws])
        everything.append(np.concatenate(draws))
    error = math.sqrt(fdr * (1 - fdr) / repetitions)
    assert rates["by"] <= fdr + 4 * error
    assert rates["by"] >= fdr - 4 * error  # the bound is attained
    assert rates["bh"] > 2 * fdr
    for p in everything:  # a p-value by itself is uniform
        assert all(abs((p <= u).mean() - u) < 0.02 for u in (0.01, 0.1, 0.5, 0.9))


# Refusal


def test_an_unknown_procedure_is_refused():
    with pytest.raises(CalibrationError, match=r"needed procedure out of \['bh', 'by'\]; 'holm' came"):
        reject(torch.rand(3), 0.1, "holm")
