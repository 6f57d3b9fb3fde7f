"""Which rows of its data set can a loader draw? What no sampler can draw is not trained on."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from mi_callback.errors import DataError
from mi_callback.lightning.data.copying import private_copy

EPOCHS, QUIET = 30, 3
"""Epochs for which an unknown sampler that shows all of its rows in each is drawn at most, and those without a new row
after which all rows are known. One that shows a share of them in each is drawn for longer."""

MISSED = 1e-5
"""Probability at most that a row of such a sampler, which draws at random, did not come in any of the epochs without a
new one."""

PATIENCE, LEAST = 3, 1000
"""Draws without a new row, per known row and at least, after which a sampler without end has shown all of its rows."""


def reachable_rows(loader: DataLoader[Any]) -> list[Any] | None:
    """Rows that a loader's sampler or batch sampler can draw, sorted where they can be; None for a stream.

    Subsets, weights (rows of weight 0 are never drawn), shares of ranks and wrappers of these are known from what they
    hold. Others are drawn, as copies, epoch after epoch, until nothing new comes.

    Raises:
        DataError: If the sampler cannot be copied, or new rows come in every epoch.
    """
    if isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    return _sorted(_rows(sampler, _length(loader.dataset)))


def base_rows(loader: Any, rows: Sequence[Any] | None) -> tuple[int, set[Any] | None]:
    """The data set below all subsets, by its identity, and the rows of it; None for all that a stream gives."""
    dataset = loader.dataset if isinstance(loader, DataLoader) else loader
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        indices = dataset.indices
        rows = [_plain(indices[row]) for row in (range(len(indices)) if rows is None else rows)]
        dataset = dataset.dataset
    return id(dataset), None if rows is None else set(rows)


def _rows(sampler: Any, n: int) -> list[Any]:
    if isinstance(sampler, DistributedSampler):
        return _rows_of_all_ranks(sampler, n)
    if _draws_as(sampler, BatchSampler):
        return _rows(sampler.sampler, n)
    if _draws_as(sampler, SequentialSampler) or _draws_as(sampler, RandomSampler):
        return list(range(len(sampler.data_source)))
    if _draws_as(sampler, SubsetRandomSampler):
        return _flat(sampler.indices)
    if _draws_as(sampler, WeightedRandomSampler):
        return _weighted(sampler.weights)
    if isinstance(sampler, (list, tuple, range, torch.Tensor)) or hasattr(sampler, "__array__"):
        return [row for drawn in sampler for row in _flat(drawn)]
    return _drawn(sampler, n)


def _draws_as(sampler: Any, kind: type) -> bool:
    """Whether it is of a kind, and draws as that kind does."""
    return isinstance(sampler, kind) and type(sampler).__iter__ is kind.__iter__  # type: ignore[attr-defined]


def _rows_of_all_ranks(sampler: Any, n: int) -> list[Any]:
    if (weights := getattr(sampler, "weights", None)) is not None:
        return _weighted(weights)
    # Lightning and others wrap a sampler into a data set of its draws.
    wrapped = getattr(
        sampler.dataset, "_sampler", getattr(sampler.dataset, "sampler", getattr(sampler, "sampler", None))
    )
    return list(range(len(sampler.dataset))) if wrapped is None else _rows(wrapped, n)


def _weighted(weights: Any) -> list[Any]:
    return torch.as_tensor(weights).flatten().nonzero().flatten().tolist()


def _drawn(sampler: Any, n: int) -> list[Any]:
    """Rows of a sampler whose kind is not known: those that it draws until nothing new comes."""
    try:
        copied = private_copy(sampler)
        found: dict[Any, None] = {}
        quiet = 0
        epoch, most = 0, EPOCHS
        while epoch < most:
            drawn: dict[Any, None] = {}
            for share in _shares(copied):
                _draw_epoch(share, epoch, n, drawn)
            before = len(found)
            found |= drawn
            quiet = quiet + 1 if len(found) == before else 0
            if quiet >= _quiet_enough(len(drawn) / max(len(found), 1)):
                return list(found)
            most = max(most, EPOCHS * math.ceil(n / max(len(drawn), 1)))
            epoch += 1
    except DataError:
        raise
    except Exception as error:
        raise _unknown(sampler, f"drawing from a copy of it failed ({type(error).__name__}: {error})") from error
    raise _unknown(sampler, f"after {epoch} epochs it still draws new ones")


def _quiet_enough(shown: float) -> int:
    """Epochs without a new row after which there is none, for a sampler that shows this share of the rows in each."""
    return QUIET if shown in (0, 1) else max(QUIET, math.ceil(math.log(MISSED) / math.log(1 - shown)))


def _shares(sampler: Any) -> Iterator[Any]:
    """The sampler of every rank, where it gives each rank a share; else the sampler."""
    ranks = getattr(sampler, "num_replicas", None)
    if not isinstance(ranks, int) or not hasattr(sampler, "rank"):
        yield sampler
        return
    for rank in range(ranks):
        share = private_copy(sampler)
        share.rank = rank
        yield share


def _draw_epoch(sampler: Any, epoch: int, n: int, found: dict[Any, None]) -> None:
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    usual = _length(sampler) or 2 * n
    since = 0
    for draws, drawn in enumerate(sampler):
        before = len(found)
        found.update(dict.fromkeys(_flat(drawn)))
        since = 0 if len(found) > before else since + 1
        if since > PATIENCE * len(found) + LEAST and draws >= usual:
            return
        if draws > (PATIENCE + 1) * (n + LEAST) * math.ceil(math.log(n + 2)):
            raise _unknown(sampler, f"it draws without end, and {len(found)} rows came without a repetition")


def _unknown(sampler: Any, why: str) -> DataError:
    return DataError(
        f"needed to know which rows are trained on; {type(sampler).__name__} does not tell: {why}. Pass the training "
        "images: MemorizationCallback(train=Subset(dataset, rows))."
    )


def _flat(rows: Any) -> list[Any]:
    """Rows of a draw: one, or those of a batch."""
    if isinstance(rows, torch.Tensor) or hasattr(rows, "__array__"):
        rows = rows.tolist()
    if isinstance(rows, (list, range)):
        return [found for row in rows for found in _flat(row)]
    return [rows]


def _plain(row: Any) -> Any:
    return row.item() if hasattr(row, "item") else row


def _sorted(rows: list[Any]) -> list[Any]:
    unique = list(dict.fromkeys(rows))
    try:
        return sorted(unique)
    except TypeError:
        return unique


def _length(sized: Any) -> int:
    try:
        return len(sized)
    except TypeError:
        return 0
