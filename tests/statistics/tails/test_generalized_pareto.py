"""The generalized Pareto tail: the estimate, its distance from the data, and how often the check rejects a true one."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from mi_callback.statistics.tails.generalized_pareto import (
    GeneralizedPareto,
    fit_p_value,
    upper_tail_anderson_darling,
    zhang_stephens,
)

pytestmark = pytest.mark.numeric

# Definition


@pytest.mark.parametrize("shape", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("k", [20, 57])
def test_the_estimate_is_that_of_zhang_and_stephens(shape, k):
    x = sorted(stats.genpareto(shape, scale=2).rvs(k, random_state=np.random.default_rng(k)))
    m, quartile = 20 + math.floor(math.sqrt(k)), x[math.floor(k / 4 + 0.5) - 1]
    thetas, likelihoods = [], []
    for i in range(1, m + 1):
        theta = 1 / x[-1] + (1 - math.sqrt(m / (i - 0.5))) / (3 * quartile)
        kappa = -sum(math.log(1 - theta * value) for value in x) / k
        thetas.append(theta)
        likelihoods.append(k * (math.log(theta / kappa) + kappa - 1))
    weights = [1 / sum(math.exp(other - own) for other in likelihoods) for own in likelihoods]
    theta = sum(w * t for w, t in zip(weights, thetas, strict=True))
    kappa = -sum(math.log(1 - theta * value) for value in x) / k
    found = zhang_stephens(torch.tensor([x], dtype=torch.float64))
    assert [float(value) for value in found] == pytest.approx([-kappa, kappa / theta])


def test_the_distance_is_the_integral_that_defines_it():
    x = np.sort(stats.genpareto(0.2).rvs(30, random_state=np.random.default_rng(1)))
    cdf = stats.genpareto(0.3, scale=1.2).cdf(x)
    steps = zip([0, *cdf], [*cdf, 1 - 1e-13], range(31), strict=True)
    integral = sum(quad(lambda f, i=i: (i / 30 - f) ** 2 / (1 - f), low, high)[0] for low, high, i in steps)
    found = upper_tail_anderson_darling(
        torch.from_numpy(x)[None], GeneralizedPareto(torch.tensor([0.3]), torch.tensor([1.2]))
    )
    assert float(found) == pytest.approx(30 * integral, rel=1e-6)


# Promise


def test_the_estimate_comes_near_the_truth():
    x = np.sort(stats.genpareto(0.25, scale=3).rvs((200, 300), random_state=np.random.default_rng(0)), axis=1)
    shape, scale = zhang_stephens(torch.from_numpy(x))
    assert float(shape.mean()) == pytest.approx(0.25, abs=0.03)
    assert float(scale.mean()) == pytest.approx(3, abs=0.1)


@pytest.mark.statistics
@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_the_fit_check_rejects_true_tails_at_its_nominal_rate(shape):
    rng = np.random.default_rng(2)
    repetitions, p = 300, []
    for i in range(repetitions):
        excess = torch.from_numpy(np.sort(stats.genpareto(shape).rvs(40, random_state=rng)))
        p.append(fit_p_value(excess, torch.Generator().manual_seed(i)))
    for level in (0.05, 0.2):
        assert np.mean(np.array(p) <= level) == pytest.approx(
            level, abs=3.5 * (level * (1 - level) / repetitions) ** 0.5
        )
