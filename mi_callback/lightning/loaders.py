"""The Trainer's own data, read a second time without the training noticing."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler

from mi_callback.errors import DataError
from mi_callback.images.batches import read_batch
from mi_callback.types import SubjectKey


def evaluation_loader(data: Any, batch_size: int, shared: bool = True) -> Iterable[Any]:
    """All items of a DataLoader or Dataset once, in order, nothing dropped, with its own random generator.

    The data set is a copy that shares only tensors and arrays: transforms that carry a random state of their own
    (MONAI's do) leave that of the original untouched. Iterate it inside `isolate_rng`. What is neither a DataLoader
    nor a Dataset is taken as an iterable of batches.

    Args:
        data: Of the Trainer, or the user's own.
        batch_size: Images per batch, where the loader or data set does not make its own batches.
        shared: Whether training reads the same object.

    Raises:
        DataError: If it does, and the data set cannot be copied.
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
        if loader.batch_sampler is None:  # the data set makes the batches
            options["batch_size"] = None
        if isinstance(loader.sampler, SubsetRandomSampler):
            dataset = Subset(dataset, sorted(loader.sampler.indices))
    if isinstance(dataset, IterableDataset):
        del options["shuffle"]
        options["batch_size"] = None if loader is None else loader.batch_size
    return DataLoader(private_copy(dataset, shared), generator=torch.Generator().manual_seed(0), **options)


def private_copy(dataset: Any, shared: bool = True) -> Any:
    """A deep copy that shares tensors and arrays; the original itself where it cannot be copied and is not `shared`.

    Raises:
        DataError: If training reads the data set too (`shared`) and it cannot be copied.
    """
    memo: dict[int, Any] = {}
    _share_arrays(dataset, memo, set())
    try:
        return copy.deepcopy(dataset, memo)
    except Exception as error:
        if not shared:
            return dataset
        raise DataError(
            f"needed a training set that can be copied, so that reading it leaves training untouched; copying "
            f"{type(dataset).__name__} failed ({error}). Pass a second instance: MemorizationCallback(train=…, "
            "held_out=…)."
        ) from error


def is_random(data: Any, image_key: SubjectKey = None, shared: bool = True) -> bool:
    """Whether reading the same item twice gives two images: random augmentation inside the data set."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    collate = data.collate_fn if isinstance(data, DataLoader) else torch.utils.data.default_collate
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Dataset) or not len(dataset):  # type: ignore[arg-type]
        return False
    dataset = private_copy(dataset, shared)
    rows = {round(k * (len(dataset) - 1) / 4) for k in range(5)}

    def read(row: int) -> Tensor:
        return torch.as_tensor(read_batch(collate([dataset[row]]), image_key=image_key).images)

    return any(_differ(first, read(row)) for row in rows for first in [read(row)] for _ in range(5))


def same_items(first: Any, second: Any) -> bool:
    """Whether two loaders read the same items: one data set, and no sampler that takes a subset of it."""
    subsets = any(isinstance(getattr(data, "sampler", None), SubsetRandomSampler) for data in (first, second))
    return getattr(first, "dataset", first) is getattr(second, "dataset", second) and not subsets


def all_loaders(loaders: Any) -> list[Any]:
    """Every loader of a Trainer that may hold one, or lists and dictionaries of them."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return [found for part in loaders for found in all_loaders(part)]
    return [] if loaders is None else [loaders]


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
