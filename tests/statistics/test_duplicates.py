"""Near-duplicates are one observation: groups of them, and how flags are counted in these."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mi_callback.statistics.duplicates import distinct_flags, groups_of_duplicates

pytestmark = pytest.mark.numeric

# Definition


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


# Promise


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
