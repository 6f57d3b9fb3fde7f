"""The Trainer's own data, read a second time without the training noticing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, default_collate

from mi_callback.errors import DataError
from mi_callback.images.batches import read_batch
from mi_callback.lightning.data.copying import private_copy
from mi_callback.types import SubjectKey

WHOLE = (0, 1)
"""The share of one process."""

ENDLESS = 50_000
"""Images after which a stream that tells no length, and has no limit, is taken to have no end."""


def named_loaders(loaders: Any, name: str) -> dict[str, Any]:
    """Every loader of a Trainer, which may hold lists, dictionaries and `CombinedLoader`s of them, by its place."""
    if loaders is None:
        return {}
    if type(loaders).__name__ == "CombinedLoader":
        return named_loaders(loaders.iterables, name)
    if isinstance(loaders, Mapping):
        parts = [(f"{name}[{key!r}]", part) for key, part in loaders.items()]
    elif isinstance(loaders, (list, tuple)):
        parts = [(f"{name}[{position}]" if len(loaders) > 1 else name, part) for position, part in enumerate(loaders)]
    else:
        return {name: loaders}
    return {place: found for inner, part in parts for place, found in named_loaders(part, inner).items()}


def is_stream(data: Any) -> bool:
    """Whether data come in an order of their own, without positions."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    return isinstance(dataset, IterableDataset) or not (
        isinstance(data, DataLoader) or hasattr(dataset, "__getitem__") or isinstance(dataset, Tensor)
    )


def evaluation_loader(
    data: Any,
    batch_size: int,
    shared: bool = True,
    rows: Sequence[Any] | None = None,
    limit: int | None = None,
    share: tuple[int, int] = WHOLE,
) -> Iterable[Any]:
    """All items of a DataLoader or Dataset once, in order, nothing dropped, with its own random generator.

    The data set is a copy that shares only tensors and arrays: transforms that carry a random state of their own
    (MONAI's do) leave that of the original untouched. Iterate it inside `isolate_rng`. Batches in a list, or given by
    the user, are taken as they are.

    Args:
        data: Of the Trainer, or the user's own.
        batch_size: Images per batch, where the loader or data set does not make its own batches.
        shared: Whether training reads the same object.
        rows: Rows that count; all of them when None.
        limit: Batches of a stream that count; all of them when None.
        share: Of the batches, which are read: from the first number on, each that many further on. Of a stream all
            are, for its batches have no positions.

    Raises:
        DataError: If training reads the same object, and it cannot be copied, or can be read only once.
    """
    if not isinstance(data, (DataLoader, Dataset)):
        return _shared_out(_batches(data, shared, limit), batch_size, share)
    loader = data if isinstance(data, DataLoader) else None
    dataset = private_copy(data if loader is None else loader.dataset, shared)
    options: dict[str, Any] = {"batch_size": batch_size, "drop_last": False}
    if loader is not None:
        options |= {
            "collate_fn": loader.collate_fn,
            "num_workers": loader.num_workers,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
        }
        if isinstance(dataset, IterableDataset):
            options["batch_size"] = loader.batch_size  # its own batches, of which some may count
        elif loader.batch_sampler is None:  # the data set makes the batches
            options["batch_size"] = None
    if share != WHOLE and not isinstance(dataset, IterableDataset):
        whole = range(len(dataset)) if rows is None else rows  # type: ignore[arg-type]
        rows = _rows_of(whole, 1 if _makes_batches(loader) else batch_size, share)
    if rows is not None:
        chunks = [list(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
        options["sampler"] = chunks if _takes_lists(loader) else list(rows)
    evaluation = DataLoader(dataset, generator=torch.Generator().manual_seed(0), **options)
    return evaluation if limit is None or not isinstance(dataset, IterableDataset) else Limited(evaluation, limit)


class Limited:
    """The first batches of a stream."""

    def __init__(self, batches: Iterable[Any], limit: int) -> None:
        self.batches, self.limit = batches, limit

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.limit)

    def __len__(self) -> int:
        return self.limit


def check_end(batches: Iterable[Any], subject_key: SubjectKey, image_key: SubjectKey) -> None:
    """Read a stream, without encoding it, until it ends.

    Raises:
        DataError: If it has not ended after `ENDLESS` images.
    """
    count = 0
    for batch in batches:
        count += len(read_batch(batch, subject_key, image_key).images)
        if count >= ENDLESS:
            raise DataError(
                f"needed a training stream with an end; {count} images came, and there are more. Say how many batches "
                "make an epoch, Trainer(limit_train_batches=…), or pass the training images: "
                "MemorizationCallback(train=…)."
            )


def is_random(data: Any, image_key: SubjectKey = None, shared: bool = True, rows: Sequence[Any] | None = None) -> bool:
    """Whether reading the same item twice gives two images: random augmentation inside the data set."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    collate = data.collate_fn if isinstance(data, DataLoader) else default_collate
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Dataset):
        return False
    rows = range(len(dataset)) if rows is None else rows  # type: ignore[arg-type]
    if not len(rows):
        return False
    dataset = private_copy(dataset, shared)
    one_by_one = not isinstance(data, DataLoader) or data.batch_sampler is not None

    def read(row: Any) -> Tensor:
        item = dataset[row]
        return torch.as_tensor(read_batch(collate([item]) if one_by_one else collate(item), image_key=image_key).images)

    places = {round(k * (len(rows) - 1) / 4) for k in range(5)}
    return any(_differ(first, read(rows[k])) for k in places for first in [read(rows[k])] for _ in range(5))


def _batches(data: Any, shared: bool, limit: int | None) -> Iterable[Any]:
    """Batches of what is no DataLoader."""
    if shared and not isinstance(data, (list, tuple, Tensor)):
        if iter(data) is data:
            raise DataError(
                f"needed training data that can be read twice; a {type(data).__name__} came, which training would "
                "miss. Pass the training images: MemorizationCallback(train=…)."
            )
        data = private_copy(data)
    return data if limit is None else Limited(data, limit)


def _shared_out(batches: Any, batch_size: int, share: tuple[int, int]) -> Any:
    """A share of what is no DataLoader: of its batches, or of those that will be made of it."""
    if share == WHOLE or is_stream(batches):
        return batches
    first, step = share
    if hasattr(batches, "ndim"):
        return list(torch.as_tensor(batches).split(batch_size))[first::step]
    if isinstance(batches, (list, tuple)):
        return batches[first::step]
    return Subset(batches, _rows_of(range(len(batches)), batch_size, share))


def _rows_of(rows: Sequence[Any], batch_size: int, share: tuple[int, int]) -> list[Any]:
    """The rows of every so manieth batch: batches of the same size are the same again."""
    first, step = share
    starts = range(first * batch_size, len(rows), step * batch_size)
    return [row for start in starts for row in rows[start : start + batch_size]]


def _makes_batches(loader: DataLoader[Any] | None) -> bool:
    """Whether the data set is asked for a row, and makes a batch of it."""
    return loader is not None and loader.batch_sampler is None and not _takes_lists(loader)


def _takes_lists(loader: DataLoader[Any] | None) -> bool:
    """Whether the data set is asked for lists of rows, of which it makes a batch."""
    return loader is not None and loader.batch_sampler is None and isinstance(loader.sampler, BatchSampler)


def _differ(first: Tensor, second: Tensor) -> bool:
    return first.shape != second.shape or not torch.equal(first, second)
