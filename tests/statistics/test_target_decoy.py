"""Are samples closer to people trained on than to people held out? The definitions, and the rates that they promise."""

import itertools
import math

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics.target_decoy import DRAWS, TargetDecoy, target_decoy_contrast

FEW = 99
"""Random labellings of a simulation: p-values are exact for any number of them."""


def labels(rng: np.random.Generator, n_trained: int, n_held_out: int) -> torch.Tensor:
    """Who of the pool was trained on, drawn at random."""
    return torch.from_numpy(rng.permutation(np.arange(n_trained + n_held_out) < n_trained))


def run(similarity, subject, trained, suspicious=None, **options) -> TargetDecoy:
    similarity = torch.as_tensor(similarity)
    suspicious = torch.zeros(len(similarity), dtype=torch.bool) if suspicious is None else torch.as_tensor(suspicious)
    return target_decoy_contrast(similarity, torch.as_tensor(subject), torch.as_tensor(trained), suspicious, **options)


def naive_evidence(similarity: list[float], subject: list[int]) -> dict[int, float]:
    return {s: max(v for v, other in zip(similarity, subject, strict=True) if other == s) for s in set(subject)}


def naive_threshold(evidence: dict[int, float], trained: list[bool], fdr: float) -> float:
    """The lowest evidence above which the estimated share of false discoveries is small enough."""
    n_trained = sum(trained)
    n_held_out = len(trained) - n_trained
    for threshold in sorted(evidence.values()):
        targets = sum(trained[s] for s, value in evidence.items() if value >= threshold)
        decoys = sum(not trained[s] for s, value in evidence.items() if value >= threshold)
        if targets and (1 + decoys) * n_trained / (1 + n_held_out) / targets <= fdr:
            return threshold
    return math.inf


def naive_statistic(evidence: dict[int, float], trained) -> float:
    ordered = sorted(evidence.values())
    middle = ordered[(len(ordered) - 1) // 2]
    deviations = sorted(abs(value - middle) for value in ordered)
    spread = 1.4826 * max(deviations[(len(ordered) - 1) // 2], 1e-6)
    return sum(1 + (max(value - middle, 0) / spread) ** 2 for s, value in evidence.items() if trained[s])


# Definition


@pytest.mark.parametrize("decimals", [1, 6], ids=["ties", "no ties"])
@pytest.mark.parametrize("fdr", [0.101, 0.301, 0.701])  # no estimate equals these
def test_discoveries_are_those_of_a_loop_over_all_thresholds(fdr, decimals):
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        trained = labels(rng, *rng.integers(1, 25, 2).tolist())
        subject = rng.integers(0, len(trained), 40)
        similarity = np.round(rng.random(40) + 0.4 * trained.numpy()[subject] * rng.random(40), decimals)
        result = run(similarity, subject, trained, fdr=fdr, draws=1)
        evidence = naive_evidence(similarity.tolist(), subject.tolist())
        threshold = naive_threshold(evidence, trained.tolist(), fdr)
        assert result.leaked == sum(bool(trained[s]) for s, value in evidence.items() if value >= threshold)
        assert result.in_train.tolist() == [bool(trained[s]) for s in subject]
        assert result.flagged.tolist() == [
            bool(trained[s]) and value >= threshold for value, s in zip(similarity, subject, strict=True)
        ]
        found += threshold < math.inf
    assert 0 < found < 40


def test_equal_evidence_is_discovered_together_or_not_at_all():
    # Ten training subjects and one held-out one with the same evidence: which of them comes first says nothing.
    trained = torch.arange(40) < 20
    subject = torch.tensor([*range(10), 20])
    for order in (torch.arange(11), torch.arange(11).flip(0)):
        tied = run(torch.full((11,), 0.9), subject[order], trained, fdr=0.15)
        assert (tied.leaked, int(tied.flagged.sum())) == (0, 0)
    apart = run(torch.tensor([0.9] * 10 + [0.8]), subject, trained, fdr=0.15)
    assert apart.leaked == 10
    assert apart.flagged.tolist() == [True] * 10 + [False]


def test_a_weak_sample_near_a_discovered_subject_is_no_copy():
    trained = torch.arange(40) < 20
    result = run(torch.tensor([0.9] * 10 + [0.3, 0.5]), torch.tensor([*range(10), 0, 30]), trained, fdr=0.15)
    assert result.leaked == 10
    assert result.flagged.tolist() == [True] * 10 + [False, False]
    assert result.in_train.tolist() == [True] * 11 + [False]


@pytest.mark.parametrize(("n_trained", "n_held_out"), [(4, 4), (6, 3), (2, 7), (1, 5)])
def test_the_p_value_is_the_share_of_all_labellings_that_look_as_trained_on(n_trained, n_held_out):
    rng = np.random.default_rng(n_trained)
    pool = n_trained + n_held_out
    for _ in range(2):
        trained = labels(rng, n_trained, n_held_out)
        subject = rng.integers(0, pool, 12)
        similarity = rng.normal(size=12)
        evidence = naive_evidence(similarity.tolist(), subject.tolist())
        observed = naive_statistic(evidence, trained.tolist())
        labellings = [set(chosen) for chosen in itertools.combinations(range(pool), n_trained)]
        share = np.mean(
            [naive_statistic(evidence, [i in chosen for i in range(pool)]) >= observed - 1e-6 for chosen in labellings]
        )
        error = math.sqrt(share * (1 - share) / DRAWS)
        assert abs(run(similarity, subject, trained).p_value - share) <= 4 * error + 1 / (DRAWS + 1)


@pytest.mark.parametrize(("n", "n_trained", "n_held_out"), [(0, 5, 5), (1, 5, 5), (4, 10, 3), (6, 5, 30), (10, 40, 60)])
def test_the_least_p_value_is_the_chance_that_all_flagged_people_are_trained_on(n, n_trained, n_held_out):
    trained = torch.arange(n_trained + n_held_out) < n_trained
    # Every flagged subject twice, and one that is not flagged: people are counted, and flagged ones alone.
    subject = torch.tensor([*range(n), *range(n), n])
    suspicious = torch.tensor([True] * (2 * n) + [False])
    expected = math.comb(n_trained, n) / math.comb(n_trained + n_held_out, n)
    assert run(torch.rand(2 * n + 1), subject, trained, suspicious).least == pytest.approx(expected)


def test_a_generator_that_copies_nobody_is_expected_near_each_side_by_its_size():
    result = run(torch.rand(5), torch.arange(5), torch.arange(40) < 10, fdr=0.3)
    assert result.expected_share == pytest.approx(0.25)
    assert result.fdr == 0.3


# Promise


def nearest_of_pool(rng: np.random.Generator, pool: int, n: int, clustered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and subject of n samples among points of a plane: spread like them, or all around one of them."""
    people = rng.normal(size=(pool, 2))
    samples = people[0] + 0.3 * rng.normal(size=(n, 2)) if clustered else rng.normal(size=(n, 2))
    distance = np.linalg.norm(samples[:, None] - people, axis=-1)
    return np.exp(-distance.min(axis=1)), distance.argmin(axis=1)


@pytest.mark.statistics
@pytest.mark.parametrize("clustered", [False, True], ids=["spread", "clustered"])
@pytest.mark.parametrize(("n_trained", "n_held_out"), [(20, 20), (40, 10), (8, 30)])
def test_a_generator_that_does_not_know_who_was_trained_on_gets_a_small_p_at_the_nominal_rate(
    n_trained, n_held_out, clustered
):
    rng = np.random.default_rng(n_trained)
    repetitions, small, leaked = 400, 0, 0
    for seed in range(repetitions):
        similarity, subject = nearest_of_pool(rng, n_trained + n_held_out, 60, clustered)
        result = run(similarity, subject, labels(rng, n_trained, n_held_out), seed=seed, fdr=0.2, draws=FEW)
        small += result.p_value <= 0.05
        leaked += result.leaked > 0  # all discoveries are false
    assert small / repetitions <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)
    assert leaked / repetitions <= 0.2 + 4 * math.sqrt(0.2 * 0.8 / repetitions)
    if not clustered:  # a test that never gives a small p would pass as well
        assert small / repetitions >= 0.01


@pytest.mark.statistics
@pytest.mark.parametrize(("n_trained", "n_held_out", "copied"), [(40, 40, 10), (60, 20, 20), (30, 60, 5), (40, 40, 1)])
def test_subjects_discovered_beside_copied_ones_are_false_at_the_rate_that_was_asked_for(n_trained, n_held_out, copied):
    rng = np.random.default_rng(copied)
    pool, fdr, shares, found = n_trained + n_held_out, 0.2, [], []
    for _ in range(400):
        trained = labels(rng, n_trained, n_held_out)
        leaking = rng.choice(trained.nonzero().flatten().numpy(), copied, replace=False)
        evidence = rng.normal(size=pool)
        evidence[leaking] += rng.normal(3, 1, size=copied)
        result = run(evidence, np.arange(pool), trained, fdr=fdr, draws=FEW)
        true = int(result.flagged[leaking].sum())
        shares.append((result.leaked - true) / max(1, result.leaked))
        found.append(true / copied)
    assert np.mean(shares) <= fdr + 4 * np.std(shares) / 400**0.5
    if copied * (1 + n_held_out) >= 2 * n_trained / fdr:  # fewer cannot be discovered reliably
        assert np.mean(found) > 0.5


@pytest.mark.parametrize(("n_trained", "n_held_out"), [(40, 40), (100, 20), (30, 90)])
def test_many_copied_subjects_are_seen_and_discovered(n_trained, n_held_out):
    rng = np.random.default_rng(0)
    pool = n_trained + n_held_out
    trained = labels(rng, n_trained, n_held_out)
    copied = trained.nonzero().flatten().numpy()[: 3 * n_trained // 4]
    similarity = np.concatenate([rng.uniform(0.9, 1, len(copied)), rng.uniform(0.2, 0.6, pool)])
    subject = np.concatenate([copied, np.arange(pool)])
    result = run(similarity, subject, trained, similarity > 0.8)
    assert result.p_value <= 0.005
    assert result.flagged[: len(copied)].all()
    assert len(copied) <= result.leaked <= len(copied) / (1 - 2 * result.fdr)


def test_copies_of_held_out_people_do_not_look_like_memorization():
    rng = np.random.default_rng(0)
    trained = torch.arange(80) < 40
    similarity = np.concatenate([rng.uniform(0.9, 1, 30), rng.uniform(0.2, 0.6, 80)])
    result = run(similarity, np.concatenate([np.arange(40, 70), np.arange(80)]), trained, similarity > 0.8)
    assert result.p_value > 0.9
    assert (result.leaked, int(result.flagged.sum())) == (0, 0)


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_an_exact_replay_of_the_training_set_is_seen(rounding, generator):
    similarity = 1 - rounding * torch.rand(50, generator=generator, dtype=torch.float64)
    result = run(similarity, torch.arange(50), torch.arange(100) < 50, torch.ones(50, dtype=torch.bool))
    assert result.leaked == 50
    assert result.p_value <= 0.05


def test_the_least_p_value_can_be_reached(generator):
    similarity = torch.rand(6, generator=generator, dtype=torch.float64)
    result = run(similarity, torch.arange(6), torch.arange(100) < 50, torch.ones(6, dtype=torch.bool))
    assert result.least <= 0.05
    assert result.p_value <= 0.05


def test_the_order_of_samples_is_irrelevant(generator):
    similarity = torch.rand(50, generator=generator)
    subject = torch.randint(30, (50,), generator=generator)
    trained, suspicious = torch.arange(30) < 18, similarity > 0.7
    order = torch.randperm(50, generator=generator)
    plain = run(similarity + 0.3 * trained[subject], subject, trained, suspicious, fdr=0.5)
    shuffled = run((similarity + 0.3 * trained[subject])[order], subject[order], trained, suspicious[order], fdr=0.5)
    assert (shuffled.p_value, shuffled.least, shuffled.leaked) == (plain.p_value, plain.least, plain.leaked)
    assert plain.leaked > 0
    assert torch.equal(shuffled.flagged, plain.flagged[order])
    assert torch.equal(shuffled.in_train, plain.in_train[order])


def test_only_the_order_and_the_gaps_of_similarities_matter(generator):
    similarity, subject = torch.rand(40, generator=generator, dtype=torch.float64), torch.arange(40) % 25
    plain = run(similarity, subject, torch.arange(25) < 12, fdr=0.5)
    moved = run(3 * similarity - 1, subject, torch.arange(25) < 12, fdr=0.5)
    assert moved.p_value == plain.p_value
    assert torch.equal(moved.flagged, plain.flagged)


def test_the_p_value_is_reproducible_and_never_zero():
    similarity, trained = torch.cat([torch.linspace(2, 1, 60), torch.zeros(60)]), torch.arange(120) < 60
    by_seed = [run(similarity, torch.arange(120), trained, seed=seed).p_value for seed in (0, 0, 1)]
    assert by_seed == [1 / (DRAWS + 1)] * 3
    noise = torch.rand(120, generator=torch.Generator().manual_seed(1))
    by_seed = [run(noise, torch.arange(120), trained, seed=seed).p_value for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2]


# Refusal


@pytest.mark.parametrize(("trained", "message"), [([True] * 4, "4 and 0 came"), ([False] * 4, "0 and 4 came")])
def test_one_side_alone_is_refused(trained, message):
    with pytest.raises(CalibrationError, match=f"training and held-out subjects for a contrast; {message}.*held_out="):
        run(torch.rand(3), torch.arange(3), trained)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_similarities_are_refused(bad):
    with pytest.raises(CalibrationError, match="finite similarities for a contrast"):
        run([0.1, bad, 0.2], torch.arange(3), torch.arange(4) < 2)
