"""The exact interval of a binomial rate."""

import pytest
from scipy.stats import binomtest

from mi_callback.statistics.rates.clopper_pearson import clopper_pearson, one_sided

pytestmark = pytest.mark.numeric

# Definition


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 40), (17, 1000)])
def test_the_interval_is_that_of_scipy(count, n, confidence):
    expected = binomtest(count, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(count, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-10)
    assert one_sided(count, n, (1 - confidence) / 2) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_nothing_seen_leaves_every_rate_possible():
    assert clopper_pearson(0, 0) == (0, 1)
