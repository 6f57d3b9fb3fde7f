"""What may be left after filtering, and what would have been noticed."""

import pytest
from scipy.stats import binom

from mi_callback.errors import CalibrationError
from mi_callback.statistics.rates import remainder
from mi_callback.statistics.rates.clopper_pearson import one_sided
from mi_callback.statistics.rates.detectable import smallest_detectable_rate
from mi_callback.statistics.rates.false_flags import excess_p_value
from mi_callback.statistics.rates.remainder import certify_remainder


@pytest.mark.parametrize(("removed", "power"), [(0, (60, 64)), (5, (60, 64)), (5, (20, 64)), (0, (64, 64))])
def test_the_limit_is_the_largest_number_that_is_not_surprising(removed, power):
    found = one_sided(*power, 0.05 * 0.2).lower
    likely = [k for k in range(1000) if binom.cdf(removed, k, found) > 0.04]
    assert certify_remainder(removed, 1000, power).missed_at_most == max(likely) - removed


@pytest.mark.parametrize("copies", [0, 1, 3, 20, 100])
@pytest.mark.parametrize("false", [0, 4])
@pytest.mark.parametrize("found", [0.4, 0.8, 0.97])
def test_the_limit_holds_whatever_the_number_of_copies(copies, false, found):
    """False flags are taken out, too, and cannot make it too small."""
    wrong = sum(
        binom.pmf(seen, copies, found)
        for seen in range(copies + 1)
        if copies - seen > remainder._missed(seen + false, 1000, found, 0.05)
    )
    assert wrong <= 0.05


def test_never_more_are_left_than_there_are():
    assert certify_remainder(8, 10, (5, 20)).missed_at_most == 2
    assert certify_remainder(10, 10, (5, 20)).missed_at_most == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((5, 4, (1, 2)), "needed 0 ≤ removed ≤ n"),
        ((0, 4, (3, 2)), "needed planted copies found and planted"),
        ((0, 4, (1, 2), 1.0), "confidence in"),
        ((0, 4, (0, 20)), "needed a detector that finds planted copies"),
    ],
)
def test_impossible_counts_are_refused(arguments, said):
    with pytest.raises(CalibrationError, match=said):
        certify_remainder(*arguments)


def test_the_smallest_detectable_rate_is_noticed_in_four_of_five_batches():
    n, alpha, people, power = 500, 0.02, 99, 0.7
    rate = smallest_detectable_rate(n, alpha, people, power)
    needed = next(x for x in range(n) if excess_p_value(x, n, alpha, people) <= 0.05)
    assert binom.sf(needed - 1, n, rate * power) == pytest.approx(0.8, abs=1e-6)
    assert smallest_detectable_rate(n, alpha, people, 1.0) < rate


@pytest.mark.parametrize(("n", "power"), [(1, 1.0), (30, 0.05)])
def test_nothing_is_noticed_in_a_batch_that_is_too_small_or_by_a_blind_detector(n, power):
    assert smallest_detectable_rate(n, 0.1, 19, power) is None
