"""The null: its moments, and what it can resolve."""

import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import conformal_p_values
from mi_callback.statistics.null import Null, NullKind, null_kind, smallest_p, subjects_needed

pytestmark = pytest.mark.numeric

# Definition


def test_mean_and_deviation_of_a_null_weigh_every_subject_the_same():
    null = Null(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64), ["a", "a", "a", "a", "b"], "held_out")
    assert null.n_subjects == 2
    assert null.mean == pytest.approx(0.5)
    assert null.std == pytest.approx(0.5)
    plain = Null(null.similarity, None, "held_out")
    assert plain.n_subjects == 5
    assert (plain.mean, plain.std) == (pytest.approx(0.2), pytest.approx(0.4))


@pytest.mark.parametrize("kind", ["held_out", "cross_fit", "train_halves"])
def test_a_kind_of_null_is_a_string_with_an_offset(kind):
    null = Null(torch.rand(3, dtype=torch.float64), None, kind)
    assert null.kind is NullKind(kind)
    assert (str(null.kind), null.kind == kind) == (kind, True)
    assert null.kind.offset == (2 if kind == "cross_fit" else 1)
    assert null.kind.calibrated == (kind != "train_halves")
    similarity = torch.tensor([0.3, 0.9], dtype=torch.float64)
    expected = conformal_p_values(similarity, null.similarity, offset=null.kind.offset)
    assert torch.equal(null.p_values(similarity), expected)


@pytest.mark.parametrize("kind", ["held_out", "cross_fit"])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.01, 0.003, 1 / 3])
def test_the_subjects_needed_are_the_fewest_whose_smallest_p_is_the_level(alpha, kind):
    offset = 2 if kind == "cross_fit" else 1
    needed = next(n for n in range(1, 10_000) if offset / (n + 1) <= alpha + 1e-12)
    assert subjects_needed(alpha, kind) == needed
    assert smallest_p(needed, kind) == pytest.approx(offset / (needed + 1))


# Promise


@pytest.mark.parametrize(("n_subjects", "alpha"), [(19, 0.05), (4, 0.2), (99, 0.01), (9, 0.1), (48, 1 / 49)])
def test_a_null_resolves_alpha_from_the_smallest_number_of_subjects_that_can(n_subjects, alpha):
    def resolves(subjects):
        return Null(torch.rand(subjects), None, "held_out").resolves(alpha)

    assert resolves(n_subjects)
    assert not resolves(n_subjects - 1)


# Refusal


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


def test_a_null_that_does_not_vary_is_refused():
    with pytest.raises(CalibrationError, match=r"held_out null that varies; all 4 images are equally similar"):
        Null(torch.full((4,), 0.3, dtype=torch.float64), None, "held_out").std  # noqa: B018


@pytest.mark.parametrize("kind", ["auto", "heldout", None])
def test_what_is_no_kind_of_a_null_that_was_made_is_refused(kind):
    known = r"needed a kind of null out of \['held_out', 'cross_fit', 'train_halves'\]"
    for call in (lambda: Null(torch.rand(3), None, kind), lambda: smallest_p(5, kind), lambda: null_kind(kind)):
        with pytest.raises(CalibrationError, match=known):
            call()


@pytest.mark.parametrize("alpha", [0, -0.1, 1.5, float("nan")])
def test_no_number_of_subjects_is_enough_for_what_is_no_level(alpha):
    with pytest.raises(CalibrationError, match=r"a level in \(0, 1\]"):
        subjects_needed(alpha)
