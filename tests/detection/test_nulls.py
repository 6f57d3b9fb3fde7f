"""Which images make a null: thinning and folds."""

from collections import Counter

import pytest
import torch

from mi_callback.statistics.subjects import folds, thin


@pytest.mark.parametrize("most", [1, 7, 29, 30, 31, None])
@pytest.mark.parametrize("subjects", [None, ["a"] * 20 + ["b"] * 5 + [f"c{i}" for i in range(5)]])
def test_the_whole_budget_is_spent_and_no_image_twice(subjects, most):
    rows = thin(subjects, 30, most, seed=0).tolist()
    assert len(rows) == min(30, most or 30)
    assert rows == sorted(set(rows))


def test_subjects_give_as_equally_as_they_can():
    subjects = ["a"] * 20 + ["b"] * 5 + ["c"] * 2
    rows = thin(subjects, 27, 12, seed=1).tolist()
    assert Counter(subjects[i] for i in rows) == {"a": 5, "b": 5, "c": 2}


def test_every_slice_of_a_subject_can_stand_for_it():
    subjects = [f"s{i // 10}" for i in range(6000)]
    places = Counter(i % 10 for i in thin(subjects, 6000, 600, seed=0).tolist())
    # Binomial(600, 1/10) has standard deviation 7.3.
    assert all(abs(places[place] - 60) < 5 * 7.3 for place in range(10))


def test_thinning_is_reproducible_and_depends_on_the_seed():
    subjects = [f"s{i // 3}" for i in range(90)]
    assert torch.equal(thin(subjects, 90, 20, seed=3), thin(subjects, 90, 20, seed=3))
    assert not torch.equal(thin(subjects, 90, 20, seed=3), thin(subjects, 90, 20, seed=4))


def test_folds_keep_subjects_whole_and_are_equally_large():
    groups = [f"s{i // 4}" for i in range(200)]
    fold = folds(groups, 30, seed=0)
    assert all(len({int(f) for f, g in zip(fold, groups, strict=True) if g == group}) == 1 for group in set(groups))
    sizes = Counter(dict(zip(groups, fold.tolist(), strict=True)).values()).values()
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 30
