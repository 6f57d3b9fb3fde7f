"""Near-duplicates among generated images are one observation, not many."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_callback.statistics.conformal import round_down


class FlagCount(NamedTuple):
    """Flags, and the images that could be flagged: `flagged ≤ n`."""

    flagged: int
    n: int


def groups_of_duplicates(n: int, pairs: Int[Tensor, "k 2"]) -> Int[Tensor, " n"]:
    """Group n images of which some are near-duplicates of each other, as those of a collapsed generator are.

    An image joins the first one, in their order, that it duplicates and that leads a group, and else leads one itself.
    Chains do not count: in a large set they would link everything.

    Args:
        n: Number of images.
        pairs: Positions of the images of each pair of near-duplicates.

    Returns:
        Number of the group of each image, from 0.

    Example:
        >>> groups_of_duplicates(5, torch.tensor([[0, 2], [2, 3]])).tolist()
        [0, 1, 0, 2, 3]
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


def distinct_flags(flagged: Bool[Tensor, " n"], group: Int[Tensor, " n"]) -> FlagCount:
    r"""Count flags and images where every group of near-duplicates counts once: by the share of it that is flagged.

    .. math:: F = \left\lfloor \sum_{g} \frac{1}{n_g} \sum_{i \in g} 1\{i \, \mathrm{flagged}\} \right\rfloor

    Args:
        flagged: Whether each image is flagged.
        group: Number of its group, as from `groups_of_duplicates`.

    Returns:
        F, and the number of groups.

    Example:
        >>> distinct_flags(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        FlagCount(flagged=1, n=2)
    """
    _, place, size = group.unique(return_inverse=True, return_counts=True)
    share = torch.zeros(len(size), dtype=torch.float64).index_add_(0, place, flagged.to(torch.float64)) / size
    return FlagCount(round_down(float(share.sum())), len(size))
