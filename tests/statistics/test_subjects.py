"""Whose image is it: weights, samples and folds of subjects."""

from collections import Counter

import pytest
import torch

from mi_callback.statistics.subjects import (
    folds,
    images_of_same_subjects,
    merge_subjects,
    numbered,
    show_alike,
    subject_weights,
    thin,
)

pytestmark = pytest.mark.numeric

# Definition


def test_the_weights_of_a_subject_sum_to_one():
    weights = subject_weights(["a", "b", "a", "c", "a", "b"], 6)
    assert torch.allclose(weights, torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2], dtype=torch.float64))
    assert subject_weights(None, 3).tolist() == [1, 1, 1]


def test_subjects_are_numbered_by_their_first_images():
    assert numbered(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("rows", [[], [0], [1, 3], [4, 4]])
def test_the_images_of_the_same_subjects_are_those_with_an_id_among_the_rows(rows):
    subjects = ["a", "b", "a", "c", "b"]
    expected = [any(subject == subjects[row] for row in rows) for subject in subjects]
    assert images_of_same_subjects(rows, subjects, 5).tolist() == expected
    assert images_of_same_subjects(rows, None, 5).tolist() == [i in rows for i in range(5)]


def test_linked_subjects_become_one():
    assert len(set(merge_subjects(list("abcd"), [("a", "b"), ("c", "b")]))) == 2
    assert merge_subjects(list("abab"), []) == list("abab")


# Promise


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


@pytest.mark.parametrize(("train", "held_out"), [([17, 9, 4], [4, 4, 1]), ([2, 1, 2], [8] * 5), ([1] * 7, [30])])
def test_subjects_of_equal_rank_show_equally_many_images(train, held_out):
    ids = [
        [f"{side}{g}" for g, n in enumerate(sizes) for _ in range(n)] for side, sizes in (("t", train), ("h", held_out))
    ]
    shown = show_alike(*ids, seed=0)
    for rows, own, sizes, others in zip(shown, ids, (train, held_out), (held_out, train), strict=True):
        counts = Counter(own[i] for i in rows.tolist())
        ranked = sorted(others)
        at_rank = [ranked[int((place + 0.5) / len(sizes) * len(others))] for place in range(len(sizes))]
        assert sorted(counts.values()) == [min(pair) for pair in zip(sorted(sizes), at_rank, strict=True)]
        assert rows.tolist() == sorted(set(rows.tolist()))
