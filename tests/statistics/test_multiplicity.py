"""Many images, many looks: the definitions, and the rates that they promise."""

import itertools
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from mi_callback.statistics.conformal import conformal_p_values
from mi_callback.statistics.duplicates import distinct_flags, groups_of_duplicates
from mi_callback.statistics.multiplicity import reject
from mi_callback.statistics.rates.false_flags import alarm, excess_p_value

alarm_once = cache(alarm)


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


def test_an_image_joins_the_first_leader_that_it_duplicates_or_leads_itself():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 25))
        pairs = torch.from_numpy(rng.integers(0, n, (int(rng.integers(0, 30)), 2)))
        linked = {frozenset(pair) for pair in pairs.tolist()}
        leaders: list[int] = []
        expected = []
        for image in range(n):
            mine = [k for k, leader in enumerate(leaders) if frozenset((leader, image)) in linked]
            if not mine:
                leaders.append(image)
            expected.append(mine[0] if mine else len(leaders) - 1)
        assert groups_of_duplicates(n, pairs).tolist() == expected


def test_near_duplicates_are_one_group_but_a_chain_of_them_is_not():
    everyone = torch.tensor(list(itertools.combinations(range(10), 2)))
    assert groups_of_duplicates(12, everyone).unique(return_counts=True)[1].tolist() == [10, 1, 1]
    chain = torch.tensor([[i, i + 1] for i in range(9)])
    assert groups_of_duplicates(10, chain).unique(return_counts=True)[1].tolist() == [2] * 5
    assert len(groups_of_duplicates(5, torch.empty(0, 2, dtype=torch.long)).unique()) == 5


@pytest.mark.parametrize("n_groups", [1, 3, 7, 30])
def test_distinct_flags_are_the_sum_over_groups_of_their_share_of_flags(n_groups):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        group, flagged = rng.integers(0, n_groups, 30) * 10, rng.random(30) < 0.6  # numbers of groups may have gaps
        total = Fraction(0)
        for g in set(group.tolist()):
            own = [bool(f) for f, other in zip(flagged, group, strict=True) if other == g]
            total += Fraction(sum(own), len(own))
        found = distinct_flags(torch.from_numpy(flagged), torch.from_numpy(group))
        assert found == (math.floor(total), len(set(group.tolist())))


@pytest.mark.parametrize("size", [1, 3, 7, 49])
def test_a_group_that_is_flagged_as_a_whole_counts_once_despite_rounding(size):
    assert distinct_flags(torch.ones(3 * size).bool(), torch.arange(3 * size) % 3) == (3, 3)
    one_is_not = torch.ones(3 * size).bool()
    one_is_not[0] = False
    assert distinct_flags(one_is_not, torch.arange(3 * size) % 3) == (2, 3)


@pytest.mark.parametrize("groups", [6, 9, 21])
def test_thirds_add_up_to_whole_flags_despite_rounding(groups):
    flagged, group = torch.arange(3 * groups) % 3 == 0, torch.arange(groups).repeat_interleave(3)
    assert distinct_flags(flagged, group) == (groups // 3, groups)


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


# Promise


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


def counts_of_looks(rng, runs: int, looks: int, n: int, n_subjects: int, alpha: float, same: bool, copies: float = 0.0):
    """Flags at every look of each run `(runs, looks)`; a run has one null, and `same` latents at every look or new."""
    k = math.floor(alpha * (n_subjects + 1) + 1e-9)
    beaten = np.sort(rng.random((runs, n_subjects)))[:, -k, None, None]  # flagged: above all of the null but k − 1
    flags = (rng.random((runs, 1 if same else looks, n)) > beaten) | (rng.random((runs, looks, n)) < copies)
    return flags.sum(axis=2)


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
