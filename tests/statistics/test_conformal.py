"""p-values: the definition, and the rates that they promise."""

import math

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import at_most, conformal_p_values, round_down, round_up
from mi_callback.statistics.null import smallest_p

pytestmark = pytest.mark.numeric


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


@pytest.mark.parametrize(("offset", "correction"), [(2, 1.0), (1, 1.5), (2, 1.2)])
def test_the_offset_is_added_to_the_count_and_the_correction_multiplies_it(offset, correction):
    null = torch.arange(19, dtype=torch.float64)
    found = conformal_p_values(null + 0.5, null, offset=offset, correction=correction)
    assert found.tolist() == pytest.approx([min(1, (offset + correction * (18 - i)) / 20) for i in range(19)])


def test_a_level_is_met_and_a_whole_number_kept_up_to_rounding_alone():
    assert at_most(0.1 + 0.2, 0.3)
    assert not at_most(0.3 + 1e-9, 0.3)
    assert at_most(torch.tensor([0.1, 0.3, 0.4]), torch.tensor([0.2, 0.2, 0.4])).tolist() == [True, False, True]
    assert (round_down(3 - 1e-14), round_down(3 - 1e-9)) == (3, 2)
    assert (round_up(3 + 1e-14), round_up(3 + 1e-9)) == (3, 4)


def test_without_subjects_every_image_is_its_own():
    null, queries = torch.rand(30), torch.rand(10)
    own = conformal_p_values(queries, null, [str(i) for i in range(30)])
    assert torch.allclose(conformal_p_values(queries, null), own)


# Promise


AT_LENGTH = [(5, 0.4), (20, 0.05), (20, 0.1), (100, 0.05), (100, 0.02)]


@pytest.mark.parametrize("within", [0.0, 0.2])
@pytest.mark.parametrize(
    ("n_subjects", "alpha"), [(5, 0.2), *(pytest.param(*case, marks=pytest.mark.statistics) for case in AT_LENGTH)]
)
def test_novel_images_are_flagged_at_most_at_the_nominal_rate(n_subjects, alpha, within):
    rng = np.random.default_rng(n_subjects)
    repetitions, rates = 800, []
    for _ in range(repetitions):
        sizes = rng.integers(1, 31, n_subjects + 1).tolist()
        *null, novel = slices_of_subjects(rng, sizes, within)
        subjects = [str(g) for g, group in enumerate(null) for _ in group]
        p = conformal_p_values(torch.from_numpy(novel), torch.from_numpy(np.concatenate(null)), subjects)
        rates.append(float(at_most(p, alpha).double().mean()))
    assert np.mean(rates) <= alpha + 4 * np.std(rates) / repetitions**0.5
    if within == 0:  # one value a subject: the rate is known, so this test could also see a test without power
        exact = math.floor(alpha * (n_subjects + 1) + 1e-9) / (n_subjects + 1)
        assert np.mean(rates) >= exact - 4 * np.std(rates) / repetitions**0.5


@pytest.mark.statistics
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


@pytest.mark.parametrize("n_images", [1, 2, 3, 7, 30])
def test_a_copy_is_flagged_at_the_smallest_resolvable_alpha_despite_rounding(n_images):
    null = torch.rand(19 * n_images, dtype=torch.float64)
    subjects = [str(i % 19) for i in range(19 * n_images)]
    p = conformal_p_values(torch.tensor([2.0]), null, subjects)
    assert at_most(p, 0.05)


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


@pytest.mark.parametrize("subjects", [["a", "b"], ["a", "b", "c", "d"]])
def test_p_values_refuse_another_number_of_subjects(subjects):
    with pytest.raises(CalibrationError, match="subject"):
        conformal_p_values(torch.rand(2), torch.rand(3), subjects)
