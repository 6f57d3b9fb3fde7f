"""Nulls, p-values, indices: the definitions, and the rates that they promise."""

import math

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import ROUNDING, conformal_p_values
from mi_callback.statistics.indices import memorization_index, overfit_novelty_index
from mi_callback.statistics.null import Null, smallest_p
from mi_callback.statistics.subjects import subject_weights


def slices_of_subjects(rng: np.random.Generator, sizes: list[int], within: float = 0.3) -> list[np.ndarray]:
    """Similarities whose subjects differ more than the slices of one subject."""
    return [rng.normal() + within * rng.normal(size=size) for size in sizes]


def naive_p_value(s: float, null: list[float], subjects: list[str]) -> float:
    total = 0.0
    for subject in set(subjects):
        own = [value for value, other in zip(null, subjects, strict=True) if other == subject]
        total += sum(value >= s for value in own) / len(own)
    return (1 + total) / (len(set(subjects)) + 1)


# Definition


@pytest.mark.parametrize("n_subjects", [1, 3, 25])
def test_a_p_value_counts_the_null_subjects_that_are_at_least_as_similar(n_subjects):
    rng = np.random.default_rng(n_subjects)
    groups = slices_of_subjects(rng, rng.integers(1, 6, n_subjects).tolist())
    # Rounded, so that ties between null and query happen; shuffled, so that subjects are not contiguous.
    pairs = [(round(float(value), 1), f"s{g}") for g, group in enumerate(groups) for value in group]
    rng.shuffle(pairs)
    null, subjects = [float(value) for value, _ in pairs], [str(subject) for _, subject in pairs]
    queries = [*null, -9.0, 9.0, *np.round(rng.normal(size=20), 1).tolist()]
    found = conformal_p_values(torch.tensor(queries), torch.tensor(null), subjects)
    assert found.dtype == torch.float64
    for query, p in zip(queries, found.tolist(), strict=True):
        assert p == pytest.approx(naive_p_value(query, null, subjects), abs=1e-12)


def test_without_subjects_every_image_is_its_own():
    null, queries = torch.rand(30), torch.rand(10)
    own = conformal_p_values(queries, null, [str(i) for i in range(30)])
    assert torch.allclose(conformal_p_values(queries, null), own)


def test_the_weights_of_a_subject_sum_to_one():
    weights = subject_weights(["a", "b", "a", "c", "a", "b"], 6)
    assert torch.allclose(weights, torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2], dtype=torch.float64))
    assert subject_weights(None, 3).tolist() == [1, 1, 1]


def test_mean_and_deviation_of_a_null_weigh_every_subject_the_same():
    null = Null(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64), ["a", "a", "a", "a", "b"], "held_out")
    assert null.n_subjects == 2
    assert null.mean == pytest.approx(0.5)
    assert null.std == pytest.approx(0.5)
    plain = Null(null.similarity, None, "held_out")
    assert plain.n_subjects == 5
    assert (plain.mean, plain.std) == (pytest.approx(0.2), pytest.approx(0.4))


def test_the_memorization_index_counts_null_deviations():
    null = Null(torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64), None, "held_out")
    values = [0.1, 0.3, 0.9]
    mean, std = 0.3, math.sqrt(0.08 / 3)
    found = memorization_index(torch.tensor(values, dtype=torch.float64), null)
    assert found.tolist() == pytest.approx([(value - mean) / std for value in values])


def test_the_index_is_bounded_on_either_scale():
    mi = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], dtype=torch.float64)
    assert overfit_novelty_index(mi, "unit").tolist() == pytest.approx([0, 0, 0, math.tanh(1), 1])
    assert overfit_novelty_index(mi, "paper").tolist() == pytest.approx([1, math.tanh(1), 0, -math.tanh(1), -1])


# Promise: rates


@pytest.mark.parametrize("within", [0.0, 0.2])
@pytest.mark.parametrize(("n_subjects", "alpha"), [(5, 0.2), (5, 0.4), (20, 0.05), (20, 0.1), (100, 0.05), (100, 0.02)])
def test_novel_images_are_flagged_at_most_at_the_nominal_rate(n_subjects, alpha, within):
    rng = np.random.default_rng(n_subjects)
    repetitions, rates = 800, []
    for _ in range(repetitions):
        sizes = rng.integers(1, 31, n_subjects + 1).tolist()
        *null, novel = slices_of_subjects(rng, sizes, within)
        subjects = [str(g) for g, group in enumerate(null) for _ in group]
        p = conformal_p_values(torch.from_numpy(novel), torch.from_numpy(np.concatenate(null)), subjects)
        rates.append(float((p <= alpha + ROUNDING).double().mean()))
    assert np.mean(rates) <= alpha + 4 * np.std(rates) / repetitions**0.5
    if within == 0:  # one value a subject: the rate is known, so this test could also see a test without power
        exact = math.floor(alpha * (n_subjects + 1) + 1e-9) / (n_subjects + 1)
        assert np.mean(rates) >= exact - 4 * np.std(rates) / repetitions**0.5


def test_slices_taken_for_subjects_would_break_the_promise():
    rng = np.random.default_rng(0)
    with_subjects, without = [], []
    for _ in range(600):
        *null, novel = slices_of_subjects(rng, [30] * 6, 0.1)
        subjects = [str(g) for g in range(5) for _ in range(30)]
        for ids, rates in ((subjects, with_subjects), (None, without)):
            p = conformal_p_values(torch.from_numpy(novel), torch.from_numpy(np.concatenate(null)), ids)
            rates.append(float((p <= 0.1).double().mean()))
    assert np.mean(with_subjects) <= 0.1
    assert np.mean(without) > 0.1 + 4 * np.std(without) / 600**0.5


@pytest.mark.parametrize("n_subjects", [1, 5, 20])
def test_a_p_value_lies_between_the_smallest_honest_one_and_one(n_subjects):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 7, n_subjects).tolist()
    null = torch.from_numpy(np.concatenate(slices_of_subjects(rng, sizes)))
    subjects = [str(g) for g, size in enumerate(sizes) for _ in range(size)]
    p = conformal_p_values(torch.linspace(-20, 20, 301), null, subjects)
    assert p.min() == pytest.approx(smallest_p(n_subjects), abs=1e-12)
    assert p.max() == pytest.approx(1, abs=1e-12)
    assert p.max() <= 1
    assert (p.diff() <= 0).all()


@pytest.mark.parametrize(("n_subjects", "alpha"), [(19, 0.05), (4, 0.2), (99, 0.01), (9, 0.1), (48, 1 / 49)])
def test_a_null_resolves_alpha_from_the_smallest_number_of_subjects_that_can(n_subjects, alpha):
    def resolves(subjects):
        return Null(torch.rand(subjects), None, "held_out").resolves(alpha)

    assert resolves(n_subjects)
    assert not resolves(n_subjects - 1)


@pytest.mark.parametrize("n_images", [1, 2, 3, 7, 30])
def test_a_copy_is_flagged_at_the_smallest_resolvable_alpha_despite_rounding(n_images):
    null = torch.rand(19 * n_images, dtype=torch.float64)
    subjects = [str(i % 19) for i in range(19 * n_images)]
    p = conformal_p_values(torch.tensor([2.0]), null, subjects)
    assert float(p) <= 0.05 + ROUNDING


def test_the_order_of_images_is_irrelevant(generator):
    null, queries = torch.rand(40, generator=generator), torch.rand(15, generator=generator)
    subjects = [str(i % 7) for i in range(40)]
    order = torch.randperm(40, generator=generator)
    shuffled = conformal_p_values(queries, null[order], [subjects[i] for i in order.tolist()])
    assert torch.allclose(shuffled, conformal_p_values(queries, null, subjects))


# Refusal


def test_an_empty_null_is_refused():
    with pytest.raises(CalibrationError, match="at least one null image"):
        conformal_p_values(torch.rand(3), torch.empty(0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["similarity", "null"])
def test_broken_similarities_are_refused(bad, where):
    similarity, null = torch.rand(3), torch.rand(4)
    (similarity if where == "similarity" else null)[1] = bad
    with pytest.raises(CalibrationError, match="finite similarities for p-values"):
        conformal_p_values(similarity, null)


@pytest.mark.parametrize("n", [0, 1])
def test_a_null_of_fewer_than_two_images_is_refused(n):
    with pytest.raises(CalibrationError, match=f"at least 2 images for the held_out null; {n} came"):
        Null(torch.rand(n), None, "held_out")


def test_a_null_with_broken_values_is_refused():
    with pytest.raises(CalibrationError, match="finite similarities for the cross_fit null"):
        Null(torch.tensor([0.1, float("nan")]), None, "cross_fit")


def test_a_null_with_another_number_of_subjects_is_refused():
    with pytest.raises(CalibrationError, match=r"one subject per null image \(3\); 2 came"):
        Null(torch.rand(3), ["a", "b"], "held_out")


@pytest.mark.parametrize("subjects", [["a", "b"], ["a", "b", "c", "d"]])
def test_p_values_refuse_another_number_of_subjects(subjects):
    with pytest.raises(CalibrationError, match="subject"):
        conformal_p_values(torch.rand(2), torch.rand(3), subjects)


def test_a_null_that_does_not_vary_is_refused():
    with pytest.raises(CalibrationError, match=r"held_out null that varies; all 4 images are equally similar"):
        Null(torch.full((4,), 0.3, dtype=torch.float64), None, "held_out").std  # noqa: B018


def test_an_unknown_scale_is_refused():
    with pytest.raises(CalibrationError, match=r"needed oni_scale out of \['unit', 'paper'\]; 'log' came"):
        overfit_novelty_index(torch.zeros(1), "log")
