"""The Trainer's own data, read a second time without the training noticing."""

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mi_callback.errors import DataError
from mi_callback.features import read_batch
from mi_callback.types import SubjectKey


def evaluation_loader(data: Any, batch_size: int) -> Iterable[Any]:
    """All items of a DataLoader or Dataset once, in order, nothing dropped, with its own random generator.

    The data set is a copy that shares only tensors and arrays: transforms that carry a random state of their own
    (MONAI's do) leave that of the original untouched. Iterate it inside `isolate_rng`. What is neither a DataLoader
    nor a Dataset is taken as an iterable of batches.
    """
    loader = data if isinstance(data, DataLoader) else None
    dataset = data if loader is None else loader.dataset
    if loader is None and not isinstance(data, Dataset):
        return data
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": False, "drop_last": False}
    if loader is not None:
        options |= {
            "collate_fn": loader.collate_fn,
            "num_workers": loader.num_workers,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    if isinstance(dataset, IterableDataset):
        del options["shuffle"]
        options["batch_size"] = None if loader is None else loader.batch_size
    return DataLoader(private_copy(dataset), generator=torch.Generator().manual_seed(0), **options)


def private_copy(dataset: Any) -> Any:
    """A deep copy that shares tensors and arrays with the original."""
    memo: dict[int, Any] = {}
    _share_arrays(dataset, memo, set())
    try:
        return copy.deepcopy(dataset, memo)
    except Exception as error:
        raise DataError(
            f"needed a training set that can be copied, so that reading it leaves training untouched; copying "
            f"{type(dataset).__name__} failed ({error}). Pass a second instance: MemorizationCallback(train=dataset)."
        ) from error


def is_random(data: Any, image_key: SubjectKey = None) -> bool:
    """Whether reading the same item twice gives two images: random augmentation inside the data set."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    collate = data.collate_fn if isinstance(data, DataLoader) else torch.utils.data.default_collate
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Dataset) or not len(dataset):  # type: ignore[arg-type]
        return False
    dataset = private_copy(dataset)
    rows = {0, len(dataset) // 2, len(dataset) - 1}

    def read(row: int) -> Tensor:
        return torch.as_tensor(read_batch(collate([dataset[row]]), image_key=image_key).images)

    return any(_differ(read(row), read(row)) for row, _ in itertools.product(rows, range(3)))


def first_loader(loaders: Any) -> Any:
    """The loader of a Trainer that may hold one, a list or a dictionary of them; None where there is none."""
    while isinstance(loaders, (list, tuple, dict)):
        values = list(loaders.values()) if isinstance(loaders, dict) else list(loaders)
        if not values:
            return None
        loaders = values[0]
    return loaders


def _differ(first: Tensor, second: Tensor) -> bool:
    return first.shape != second.shape or not torch.equal(first, second)


def _share_arrays(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (Tensor, np.ndarray)):
        memo[id(value)] = value
    elif isinstance(value, dict):
        for item in value.values():
            _share_arrays(item, memo, seen)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _share_arrays(item, memo, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        _share_arrays(vars(value), memo, seen)
