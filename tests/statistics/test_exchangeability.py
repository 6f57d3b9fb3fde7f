"""Are held-out people like training people? The definition, the level whatever the data, and planted differences."""

import itertools
import math
from statistics import NormalDist, median, stdev

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics import exchangeability
from mi_callback.statistics.exchangeability import RIDGE, Aspect, compare_people, images_to_compare


def people(rng: np.random.Generator, sizes: list[int], k: int, within: float = 0.7) -> tuple[np.ndarray, list[str]]:
    """k values of each image of people with so many images, and whose each is."""
    who = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(sizes), k))[who] + within * rng.normal(size=(len(who), k)), [f"p{g}" for g in who]


def compare(values: np.ndarray, subjects, n_train_people: int, named: int = 0, **options):
    """Of people p0, p1, … the first so many are trained on; the first columns have names."""
    held_out = torch.tensor([int(subject[1:]) >= n_train_people for subject in subjects])
    values = torch.from_numpy(values)
    statistics = {f"s{j}": values[:, j] for j in range(named)}
    rest = values[:, named:] if named < values.shape[1] else None
    return compare_people(held_out, subjects, statistics, rest, **options)


# Definition


def naive_scores(column: list[float]) -> list[float]:
    n = len(column)
    share = [
        (sum(other < value for other in column) + sum(other <= value for other in column)) / 2 / n for value in column
    ]
    scores = [NormalDist().inv_cdf(s) for s in share]
    return [score - sum(scores) / n for score in scores]


def naive_statistics(z: np.ndarray, held_out: set[int]) -> list[float]:
    """The largest standardised difference, Hotelling's statistic and the energy distance."""
    n = len(z)
    h, t = sorted(held_out), [g for g in range(n) if g not in held_out]
    delta = z[h].mean(axis=0) - z[t].mean(axis=0)
    covariance = (1 - RIDGE) * np.cov(z.T).reshape(z.shape[1], -1) + RIDGE * np.eye(z.shape[1])

    def apart(one, other):
        return sum(math.dist(z[g], z[i]) for g in one for i in other) / len(one) / len(other)

    largest = max(abs(d) / s for d, s in zip(delta, z.std(axis=0, ddof=1), strict=True))
    return [largest, delta @ np.linalg.solve(covariance, delta), 2 * apart(h, t) - apart(h, h) - apart(t, t)]


def naive_p_values(statistic: list[float]) -> list[float]:
    return [sum(other >= value - 1e-9 for other in statistic) / len(statistic) for value in statistic]


@pytest.mark.parametrize(("n_train", "n_held_out", "k"), [(4, 3, 2), (4, 4, 3), (6, 2, 1), (3, 4, 9), (1, 6, 2)])
def test_the_p_value_is_the_rank_among_all_labellings_of_the_smallest_rank_of_three_statistics(n_train, n_held_out, k):
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n = n_train + n_held_out
        values = np.round(rng.normal(size=(n, k)) + 2 * (seed == 0) * (np.arange(n) >= n_train)[:, None], 1)  # ties
        z = np.array([naive_scores(column.tolist()) for column in values.T]).T
        true = set(range(n_train, n))
        labellings = [true, *(s for c in itertools.combinations(range(n), n_held_out) if (s := set(c)) != true)]
        statistics = [naive_statistics(z, labelling) for labelling in labellings]
        ranks = [naive_p_values(list(values_of)) for values_of in zip(*statistics, strict=True)]
        smallest = [min(of_three) for of_three in zip(*ranks, strict=True)]
        expected = sum(value <= smallest[0] + 1e-9 for value in smallest) / len(smallest)
        result = compare(values, [f"p{g}" for g in range(n)], n_train)
        assert result.p_value == pytest.approx(expected)
        assert result.p_value >= result.least - 1e-12
        found.append(result.p_value)
    assert len(set(found)) > 1


@pytest.mark.parametrize(("n_train", "n_held_out"), [(4, 3), (5, 5)])
def test_named_p_values_are_those_of_the_step_down_procedure(n_train, n_held_out):
    rng = np.random.default_rng(1)
    n, k = n_train + n_held_out, 4
    values = rng.normal(size=(n, k)) + 2 * np.outer(np.arange(n) >= n_train, [0, 1.5, 0, 0.7])
    z = np.array([naive_scores(column.tolist()) for column in values.T]).T

    def standardised(held_out: set[int]) -> list[float]:
        return [naive_statistics(z[:, [j]], held_out)[0] for j in range(k)]

    true = set(range(n_train, n))
    labellings = [set(chosen) for chosen in itertools.combinations(range(n), n_held_out)]
    observed, permuted = standardised(true), [standardised(labelling) for labelling in labellings]
    expected, last, left = {}, 0.0, set(range(k))
    while left:
        j = max(sorted(left), key=lambda j: round(observed[j], 9))
        share = sum(max(row[i] for i in left) >= observed[j] - 1e-9 for row in permuted) / len(permuted)
        expected[f"s{j}"] = last = max(last, share)
        left.remove(j)
    result = compare(values, [f"p{g}" for g in range(n)], n_train, named=k)
    assert [difference.name for difference in result.differences] == list(expected)
    assert [difference.p_value for difference in result.differences] == pytest.approx(list(expected.values()))


def test_differences_tell_medians_over_people_of_the_means_and_deviations_of_their_images():
    rng = np.random.default_rng(2)
    values, subjects = people(rng, [5] * 9, 2)
    result = compare(values, subjects, 5, named=1)
    assert {difference.aspect for difference in result.differences} == {Aspect.LEVEL, Aspect.SPREAD}
    of_people = values[:, 0].reshape(9, 5).tolist()
    for difference in result.differences:
        naive = [stdev(own) if difference.aspect == "spread" else sum(own) / 5 for own in of_people]
        assert (difference.train, difference.held_out) == pytest.approx((median(naive[:5]), lower(naive[5:])))
        z = naive_scores(naive)
        assert difference.effect == pytest.approx(sum(z[5:]) / 4 - sum(z[:5]) / 5)


def lower(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


@pytest.mark.parametrize(("n_train", "n_held_out"), [(1, 1), (2, 1), (3, 3), (4, 2), (30, 30)])
def test_the_least_p_value_is_that_of_the_most_extreme_labelling(n_train, n_held_out):
    n = n_train + n_held_out
    mirrored = 2 if n_train == n_held_out else 1
    apart = np.random.default_rng(0).normal(size=(n, 5)) + 100 * (np.arange(n) >= n_train)[:, None]
    result = compare(apart, [f"p{g}" for g in range(n)], n_train, labellings=500)
    assert result.least == pytest.approx(max(mirrored / math.comb(n, n_held_out), 1 / 500))
    assert result.p_value == pytest.approx(result.least)
    assert result.can_reject(result.least)
    assert not result.can_reject(result.least * 0.99)


# Promise


def test_of_two_people_a_side_nothing_can_be_said_at_five_percent():
    result = compare(np.array([[0.0], [1], [50], [51]]), ["p0", "p1", "p2", "p3"], 2)
    assert not result.can_reject(0.05)
    assert not result.rejects(0.05)
    assert (result.n_train, result.n_held_out) == (2, 2)


def test_a_statistic_that_differs_is_named_and_others_are_not():
    rng = np.random.default_rng(0)
    values, subjects = people(rng, [4] * 60, 6)
    values[[int(s[1:]) >= 40 for s in subjects], 2] += 2
    result = compare(values, subjects, 40, named=4)
    assert result.rejects(0.01)
    (differing,) = result.differing(0.05)
    assert (differing.name, differing.aspect) == ("s2", "level")
    assert differing.held_out > differing.train
    assert differing.effect > 1


def test_a_spread_that_differs_is_named_as_one():
    rng = np.random.default_rng(0)
    values, subjects = people(rng, [6] * 60, 4)
    values[[int(s[1:]) >= 40 for s in subjects], 1] *= 3
    result = compare(values, subjects, 40, named=4)
    assert ("s1", "spread") in [(difference.name, difference.aspect) for difference in result.differing(0.05)]


def test_features_that_differ_are_seen_though_no_named_statistic_does():
    rng = np.random.default_rng(0)
    values, subjects = people(rng, [4] * 90, 30)
    held_out = [int(s[1:]) >= 60 for s in subjects]
    values[np.ix_(held_out, range(4, 30))] += 0.5
    result = compare(values, subjects, 60, named=4)
    assert result.rejects(0.01)
    assert result.differing(0.05) == ()


def test_only_the_order_of_the_values_of_a_statistic_matters():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(30, 3))
    subjects = [f"p{g}" for g in range(30)]
    plain = compare(values, subjects, 20, named=2)
    assert compare(np.exp(3 * values) - 5, subjects, 20, named=2).p_value == plain.p_value


def test_both_sides_are_alike():
    rng = np.random.default_rng(4)
    values, held_out = torch.from_numpy(rng.normal(size=(9, 3))), torch.arange(9) < 4
    one, other = (compare_people(side, None, {}, values).p_value for side in (held_out, ~held_out))
    assert one == pytest.approx(other)


def test_what_differs_by_rounding_alone_is_equal():
    # Means of .1 over different numbers of images differ in the last digit.
    sizes = [3, 3, 6, 6, 7, 7, 9, 9, 11, 11] * 4
    subjects = [f"p{g}" for g, size in enumerate(sizes) for _ in range(size)]
    values = np.stack([np.full(len(subjects), 0.1), np.random.default_rng(0).normal(size=len(subjects))], axis=1)
    result = compare(values, subjects, 20, named=2)
    assert {difference.name for difference in result.differences} == {"s1"}


def test_a_person_with_one_image_has_no_spread():
    values = np.random.default_rng(0).normal(size=(20, 2))
    result = compare(values, [f"p{g}" for g in range(20)], 12, named=2)
    assert {difference.aspect for difference in result.differences} == {Aspect.LEVEL}
    some, subjects = people(np.random.default_rng(0), [1, 4] * 10, 2)
    both = compare(some, subjects, 12, named=2)
    assert len(both.differences) == 4
    assert all(math.isfinite(value) for d in both.differences for value in (d.train, d.held_out, d.effect, d.p_value))


def test_the_seed_decides_and_no_global_generator_is_touched():
    values, subjects = people(np.random.default_rng(0), [3] * 40, 3)
    state = torch.get_rng_state()
    one, same, other = (compare(values, subjects, 25, named=1, labellings=300, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.p_value != other.p_value
    assert torch.equal(torch.get_rng_state(), state)


def test_of_very_many_people_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(exchangeability, "MOST_PEOPLE", 30)
    values, subjects = people(np.random.default_rng(0), [2] * 120, 3)
    values[[int(s[1:]) >= 100 for s in subjects]] += 2
    result = compare(values, subjects, 100, named=3)
    assert (result.n_train, result.n_held_out) == (30, 20)
    assert result.rejects(0.01)


# Promise: the level


def draw(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, list[str], int]:
    """Exchangeable people, of whom the first so many are trained on."""
    n_train, n_held_out = {"few people": (5, 3), "very unequal sides": (60, 4)}.get(kind, (25, 15))
    n = n_train + n_held_out
    sizes = [12 if g < n_train else 2 for g in range(n)] if kind == "unequal numbers of images" else [3] * n
    values, subjects = people(rng, sizes, 12)
    who = np.array([int(s[1:]) for s in subjects])
    if kind == "heavy tails":
        values *= (1 / np.abs(rng.normal(size=n)).clip(0.02))[who][:, None]
    if kind == "ties":
        values = np.round(values).clip(0, 1)
    return values, subjects, n_train


@pytest.mark.statistics
@pytest.mark.parametrize(
    "kind", ["plain", "heavy tails", "ties", "unequal numbers of images", "very unequal sides", "few people"]
)
def test_exchangeable_people_are_told_apart_at_the_nominal_rate(kind):
    rng = np.random.default_rng(0)
    repetitions, p_values, named = 1000, [], []
    for seed in range(repetitions):
        values, subjects, n_train = draw(rng, kind)
        result = compare(values, subjects, n_train, named=6, labellings=200, seed=seed)
        p_values.append(result.p_value)
        named.append(bool(result.differing(0.05)))
    for level in (0.05, 0.2):
        rate = np.mean([p <= level + 1e-12 for p in p_values])
        error = math.sqrt(level * (1 - level) / repetitions)
        assert rate <= level + 4 * error
        if kind != "few people":  # their p-values are coarse
            assert rate >= level - 4 * error - 0.02
    assert np.mean(named) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.statistics
def test_with_one_statistic_that_differs_another_is_named_at_most_at_the_nominal_rate():
    rng = np.random.default_rng(0)
    repetitions, wrong, right = 600, 0, 0
    for seed in range(repetitions):
        values, subjects, n_train = draw(rng, "plain")
        values[[int(s[1:]) >= n_train for s in subjects], 0] += 2
        named = {d.name for d in compare(values, subjects, n_train, named=6, labellings=200, seed=seed).differing(0.05)}
        wrong += bool(named - {"s0"})
        right += "s0" in named
    assert wrong / repetitions <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)
    assert right / repetitions > 0.95


# Promise: power


def plant(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Eighty training people and forty held-out ones who differ, in 60 coordinates."""
    n, k = 120, 60
    held_out = np.arange(n) >= 80
    person, within = rng.normal(size=(n, k)), np.full(n, 0.7)
    if kind == "a few coordinates":
        person[np.ix_(held_out, [0, 1])] += 0.9
    if kind == "all coordinates a little":
        person[held_out] += 0.25
    if kind == "the spread within people":
        within[held_out] *= 1.5
    if kind == "the spread among people":
        person[held_out] *= 1.5
    if kind == "how coordinates go together":
        person = 2 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, k)) + 0.3 * person
        person[np.ix_(held_out, range(10))] += 0.5
        within[:] = 0.2
    who = np.repeat(np.arange(n), 4)
    return person[who] + within[who, None] * rng.normal(size=(len(who), k)), [f"p{g}" for g in who]


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("kind", "power"),
    [
        ("a few coordinates", 0.8),
        ("all coordinates a little", 0.9),
        ("the spread within people", 0.95),
        ("the spread among people", 0.8),
        ("how coordinates go together", 0.8),
    ],
)
def test_a_planted_difference_is_seen(kind, power):
    seen = []
    for seed in range(100):
        values, subjects = plant(kind, np.random.default_rng(seed))
        seen.append(compare(values, subjects, 80, named=8, labellings=500, seed=seed).rejects(0.05))
    assert np.mean(seen) >= power


# Refusal


@pytest.mark.parametrize("held_out", [[True] * 4, [False] * 4])
def test_one_side_alone_is_refused(held_out):
    with pytest.raises(CalibrationError, match="needed training and held-out people to compare; "):
        compare_people(torch.tensor(held_out), None, {"noise": torch.rand(4)})


def test_people_on_both_sides_are_refused_by_their_number():
    with pytest.raises(CalibrationError, match=r"on one side alone; 1 are on both\. Split by subject"):
        compare_people(torch.tensor([0, 0, 1, 1]).bool(), ["secret", "b", "secret", "c"], {"noise": torch.rand(4)})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_values_are_refused(bad):
    with pytest.raises(CalibrationError, match="needed finite noise to compare people by"):
        compare_people(torch.arange(3) > 1, None, {"noise": torch.tensor([1.0, bad, 2.0])})
    with pytest.raises(CalibrationError, match="needed finite features"):
        compare_people(torch.arange(3) > 1, None, {}, torch.tensor([[1.0], [bad], [2.0]]))


def test_what_does_not_fit_together_is_refused():
    held_out = torch.arange(4) > 1
    with pytest.raises(CalibrationError, match=r"one value of noise per image \(4\); 3 came"):
        compare_people(held_out, None, {"noise": torch.rand(3)})
    with pytest.raises(CalibrationError, match=r"one subject per image \(4\); 2 came"):
        compare_people(held_out, ["a", "b"], {"noise": torch.rand(4)})
    with pytest.raises(CalibrationError, match="statistics or features to compare people by; none came"):
        compare_people(held_out, None, {})
    with pytest.raises(CalibrationError, match="that vary among people; all of them are constant"):
        compare_people(held_out, None, {"noise": torch.ones(4)})


def test_values_of_the_images_that_are_compared_are_enough(monkeypatch, generator):
    monkeypatch.setattr(exchangeability, "MOST_PEOPLE", 12)
    held_out = torch.arange(120) >= 80
    subjects = [f"s{i // 4}" for i in range(80)] + [f"h{i // 2}" for i in range(80, 120)]
    noise, features = torch.rand(120, generator=generator), torch.rand(120, 3, generator=generator)
    rows = images_to_compare(held_out, subjects, seed=3)
    assert len(rows) < 120
    some = compare_people(held_out, subjects, {"noise": noise[rows]}, features[rows], seed=3, among=rows)
    assert some == compare_people(held_out, subjects, {"noise": noise}, features, seed=3)
    with pytest.raises(CalibrationError, match=rf"one value of noise per image \({len(rows)}\)"):
        compare_people(held_out, subjects, {"noise": noise}, seed=3, among=rows)
