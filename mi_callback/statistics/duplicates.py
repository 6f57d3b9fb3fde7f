"""Near-duplicates among generated images are one observation, not many."""

from typing import NamedTuple

import torch
from torch import Tensor

from mi_callback.statistics.conformal import round_down


class FlagCount(NamedTuple):
    """Flags, and the images that could be flagged: `flagged ≤ n`."""

    flagged: int
    n: int


def groups_of_duplicates(n: int, pairs: Tensor) -> Tensor:
    """Number of the group of each of n images, where `pairs` `(k, 2)` of them are near-duplicates; `(n,)`.

    Near-duplicates of one another (a collapsed generator) are one observation, not many. An image joins the first
    one, in their order, that it duplicates and that leads a group, and else leads one itself. Chains do not count:
    in a large set they would link everything.
    """
    neighbours: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    group = [-1] * n
    leaders = 0
    for image in range(n):
        if group[image] < 0:
            for member in (image, *neighbours.get(image, ())):
                if group[member] < 0:
                    group[member] = leaders
            leaders += 1
    return torch.tensor(group, dtype=torch.long)


def distinct_flags(flagged: Tensor, group: Tensor) -> FlagCount:
    """Flags and images where every group of near-duplicates counts once: its mean, their sum rounded down."""
    _, place, size = group.unique(return_inverse=True, return_counts=True)
    share = torch.zeros(len(size), dtype=torch.float64).index_add_(0, place, flagged.to(torch.float64)) / size
    return FlagCount(round_down(float(share.sum())), len(size))
