"""Which pairs of each group go on: the best of them, or those that stand foremost."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

TIE = 1e-5
"""Values that differ by less are equal, and the first in the order given is better. Twice the same image has LNCC that
differ by up to 5e-6, as rounding depends on its place in a batch: which of the two is the match must not."""


def select_best(
    value: Float[Tensor, " p"], group: Int[Tensor, " p"], most: Int[Tensor, " p"] | int = 1
) -> Int[Tensor, " k"]:
    """Positions of `most` pairs of each group, those with the largest value, by group and descending.

    Args:
        value: Of each pair.
        group: Whom it competes with.
        most: The same for all, or of the group of each pair.

    Example:
        >>> select_best(torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([7, 3, 3, 7])).tolist()
        [1, 3]
    """
    order, place = _rank(value, group)
    return order[place < (most if isinstance(most, int) else most[order])]


def select_foremost(value: Float[Tensor, " p"], group: Int[Tensor, " p"], most: Int[Tensor, " p"]) -> Int[Tensor, " k"]:
    """Positions, ascending, of the pairs of each group that stand foremost, by value or in the order given.

    Each is right about copies that the other misjudges.
    """
    orders = (_rank(values, group) for values in (-torch.arange(len(group)), value))
    given, by_value = (place[order.argsort()] for order, place in orders)
    return select_best(-torch.minimum(given, by_value + 0.5), group, most).sort().values


def select_first_and_best(
    value: Float[Tensor, " p"], group: Int[Tensor, " p"], most: Int[Tensor, " p"]
) -> Int[Tensor, " k"]:
    """Positions, ascending, of the best pairs of each group, the first of it always among them.

    Retrieval's favourite stays that way: the coarsest level may misjudge it.
    """
    position = torch.arange(len(group))
    first = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, position, "amin")
    return select_best(value.masked_fill(first[group] == position, torch.inf), group, most).sort().values


def _rank(value: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of all pairs by group, the largest value first, and the place of each of them in its group, from 0."""
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[group[by_value].argsort(stable=True)]
    order = _level(value[order], group[order])[order.argsort()].argsort(stable=True)
    _, sizes = group[order].unique_consecutive(return_counts=True)
    return order, torch.cat([torch.arange(int(size)) for size in sizes])


def _level(value: Tensor, group: Tensor) -> Tensor:
    """Numbers that rise from each pair to the next, but where these tie; pairs come by group and descending."""
    lower = (value[:-1] - value[1:] > TIE) | (group[1:] != group[:-1])
    return torch.cat([lower.new_ones(1), lower]).cumsum(dim=0)
