"""People of the null who seem to be trained on."""

import math

import pytest
import torch

from mi_callback.statistics.outliers import (
    COPY,
    FEWEST,
    OUTLYING,
    copies_in_null,
    few_enough,
    like_copies,
    robust_std,
    suspects,
)

pytestmark = pytest.mark.numeric

# Definition


@pytest.mark.parametrize("n", [1, 4, 11])
def test_the_robust_deviation_is_that_of_a_loop(n, generator):
    values = torch.randn(n, generator=generator, dtype=torch.float64)
    ordered = sorted(values.tolist())
    middle = ordered[(n - 1) // 2]
    expected = 1.4826 * sorted(abs(value - middle) for value in ordered)[(n - 1) // 2]
    assert float(robust_std(values)) == pytest.approx(expected)


def test_the_robust_deviation_is_that_of_a_normal_distribution(generator):
    assert float(robust_std(3 * torch.randn(20_000, generator=generator))) == pytest.approx(3, rel=0.03)


def test_like_a_copy_is_what_lies_high_and_far_above_the_null(generator):
    null = 0.6 + 0.05 * torch.randn(40, generator=generator, dtype=torch.float64)
    similarity = torch.linspace(0.5, 0.999, 60, dtype=torch.float64)
    z = [math.atanh(value) for value in null.tolist()]
    middle = sorted(z)[19]
    spread = 1.4826 * sorted(abs(value - middle) for value in z)[19]
    expected = [s >= COPY and math.atanh(s) > middle + OUTLYING * spread for s in similarity.tolist()]
    assert like_copies(similarity, null).tolist() == expected
    assert 0 < sum(expected) < 60
    assert not like_copies(similarity, null[: FEWEST - 1]).any()


# Promise


def test_patients_under_another_id_stand_out_of_the_null(generator):
    similarity = 0.6 + 0.05 * torch.randn(60, generator=generator, dtype=torch.float64)
    similarity[[7, 31]] = 0.97
    assert copies_in_null(similarity).nonzero().flatten().tolist() == [7, 31]
    who, people = suspects(similarity, [f"s{i // 3}" for i in range(60)])
    assert who.nonzero().flatten().tolist() == [6, 7, 8, 30, 31, 32]
    assert people == 2
    who, people = suspects(similarity, None)
    assert who.nonzero().flatten().tolist() == [7, 31]
    assert people == 2


@pytest.mark.parametrize("centre", [0.3, 0.6, 0.95])
def test_people_who_merely_look_alike_are_not_suspected(centre):
    # Normal on Fisher's scale: beyond six robust deviations with a probability of 1e-9.
    z = torch.atanh(torch.tensor(centre)) + 0.2 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    who, people = suspects(z.tanh(), None)
    assert people == 0
    assert not who.any()


@pytest.mark.parametrize(("people", "total", "few"), [(1, 5, True), (2, 150, False), (2, 200, True), (11, 1000, False)])
def test_one_person_or_one_in_a_hundred_may_be_left_out(people, total, few):
    assert few_enough(people, total) is few


def test_of_a_small_null_nothing_can_be_told():
    assert not copies_in_null(torch.tensor([0.1] * 8 + [0.99])).any()
