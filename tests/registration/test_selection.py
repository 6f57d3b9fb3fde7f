"""The best of each group go on, and those that stand foremost; the others do not matter."""

import pytest
import torch

from mi_callback.registration.selection import select_best, select_first_and_best, select_foremost


def drawn(pairs: int = 40, groups: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(pairs, generator=generator), torch.randint(groups, (pairs,), generator=generator)


def members(group: torch.Tensor) -> list[list[int]]:
    return [(group == one).nonzero().flatten().tolist() for one in group.unique()]


def test_the_best_come_by_group_and_descending():
    value, group = drawn()
    most = torch.tensor([1, 5, 30])[group]
    expected = []
    for own in members(group):
        expected += sorted(own, key=lambda pair: -float(value[pair]))[: int(most[own[0]])]
    assert select_best(value, group, most).tolist() == expected
    assert select_best(value, group).tolist() == [max(own, key=lambda p: float(value[p])) for own in members(group)]


def test_the_foremost_stand_first_in_the_order_given_or_by_value():
    value, group = drawn()
    most = torch.tensor([4, 5, 30])[group]
    expected = []
    for own in members(group):
        by_value = sorted(own, key=lambda pair: -float(value[pair]))
        place = {pair: min(own.index(pair), by_value.index(pair) + 0.5) for pair in own}
        expected += sorted(own, key=place.get)[: int(most[own[0]])]
    assert select_foremost(value, group, most).tolist() == sorted(expected)


def test_the_first_is_always_among_the_best():
    value, group = drawn()
    most = torch.tensor([1, 4, 30])[group]
    expected = []
    for own in members(group):
        others = sorted(own[1:], key=lambda pair: -float(value[pair]))
        expected += [own[0], *others[: int(most[own[0]]) - 1]]
    assert select_first_and_best(value, group, most).tolist() == sorted(expected)


def test_one_pair_is_its_own_best():
    one, group = torch.tensor([0.3]), torch.tensor([7])
    assert select_best(one, group).tolist() == [0]
    assert select_foremost(one, group, torch.tensor([4])).tolist() == [0]
    assert select_first_and_best(one, group, torch.tensor([1])).tolist() == [0]


@pytest.mark.parametrize("seed", range(4))
def test_of_pairs_that_tie_but_for_rounding_the_first_in_the_order_given_goes_on(seed):
    generator = torch.Generator().manual_seed(seed)
    value = torch.tensor([0.3, 0.9, 0.7, 0.9, 0.7, 0.9, 0.7, 0.3])
    group = torch.tensor([0, 0, 1, 0, 1, 1, 1, 1])
    rounded = value + 4e-6 * torch.rand(8, generator=generator)
    assert select_best(rounded, group).tolist() == [1, 5]
    assert select_best(rounded, group, 4).tolist() == [1, 3, 0, 5, 2, 4, 6]
    assert select_foremost(rounded, group, torch.full((8,), 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert select_first_and_best(rounded, group, torch.full((8,), 2)).tolist() == [0, 1, 2, 5]


def test_what_differs_by_more_than_rounding_is_told_apart():
    value = 0.9 + 2e-5 * torch.tensor([0.0, 3, 1, 2])
    assert select_best(value, torch.zeros(4, dtype=torch.long), 4).tolist() == [1, 3, 2, 0]


def test_groups_do_not_tie_with_each_other():
    value, group = torch.tensor([0.5, 0.5, 0.9, 0.9]), torch.tensor([1, 0, 0, 1])
    assert select_best(value, group, 2).tolist() == [2, 1, 3, 0]
