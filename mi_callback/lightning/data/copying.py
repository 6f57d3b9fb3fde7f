"""Copies of what the training reads, so that reading it a second time leaves no trace."""

import copy
from typing import Any

import numpy as np
from torch import Tensor

from mi_callback.errors import DataError


def private_copy(value: Any, shared: bool = True) -> Any:
    """A deep copy that shares tensors and arrays, so that it costs nothing and no state of the original moves.

    Args:
        value: A data set, a sampler or a loader.
        shared: Whether training reads it too; what the user gave for this purpose alone is taken itself where it cannot
            be copied.

    Raises:
        DataError: If training reads it too and it cannot be copied.
    """
    memo: dict[int, Any] = {}
    _share_arrays(value, memo, set())
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:
        if not shared:
            return value
        raise DataError(
            f"needed a training set that can be copied, so that reading it leaves training untouched; copying "
            f"{type(value).__name__} failed ({error}). Pass a second instance: MemorizationCallback(train=…, "
            "held_out=…)."
        ) from error


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
