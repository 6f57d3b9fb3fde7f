"""What images are drawn for: labels, prompts or masks, drawn from validation batches, the same at every validation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mi_callback.errors import DataError
from mi_callback.lightning.data.loaders import evaluation_loader, is_stream, named_loaders
from mi_callback.types import SubjectKey

MOST_GROUPS = 32
"""Conditions of more kinds than this are not told apart in tables."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of n images.

    Attributes:
        values: A tensor `(n, …)`, or n other things, texts for example.
    """

    values: Any

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, n: int, device: Any) -> Any:
        """Those of images `start` to `start + n`, again from the beginning where there are fewer."""
        rows = [i % len(self) for i in range(start, start + n)]
        return self.values[rows].to(device) if isinstance(self.values, Tensor) else [self.values[i] for i in rows]

    def names(self, n: int) -> list[str] | None:
        """A name for the condition of each of n images; None for masks, and for more kinds than a table may have.

        Numbers are named as they are; a text may tell who a patient is, so it is told by its number, in the order of
        appearance.
        """
        if isinstance(self.values, Tensor):
            if self.values.numel() != len(self):
                return None
            kinds: list[Any] = [_number(value) for value in self.values.flatten().tolist()]
        else:
            order = {value: str(i) for i, value in enumerate(dict.fromkeys(map(str, self.values)))}
            kinds = [order[str(value)] for value in self.values]
        return None if len(set(kinds)) > MOST_GROUPS else [kinds[i % len(kinds)] for i in range(n)]


def draw_conditions(trainer: Any, key: SubjectKey, n: int, seed: int) -> Conditions:
    """Conditions of n validation images at random; of a stream its first.

    Args:
        trainer: With its validation loaders.
        key: Where a batch holds them: a key, a position, or a function of the batch.
        n: How many; all that there are, where there are fewer.
        seed: Of the choice.

    Raises:
        DataError: Without validation data, or where batches hold no conditions there.
    """
    loaders = list(named_loaders(trainer.val_dataloaders, "val_dataloaders").values())
    if not loaders:
        raise DataError("needed validation data to draw conditions from; there are none. Leave condition_key out.")
    found: list[Any] = []
    for loader in loaders:
        for batch in _batches(loader, -(-n // len(loaders)), seed):
            found.append(_read(batch, key))
            if sum(map(len, found)) >= n:
                break
    if all(isinstance(part, Tensor) for part in found):
        return Conditions(torch.cat(found)[:n])
    return Conditions([value for part in found for value in part][:n])


def _batches(loader: Any, n: int, seed: int) -> Iterable[Any]:
    if not isinstance(loader, DataLoader) or is_stream(loader):
        return evaluation_loader(loader, n)
    rows = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    return evaluation_loader(loader, min(n, 64), rows=rows[:n].tolist())


def _read(batch: Any, key: SubjectKey) -> Sequence[Any] | Tensor:
    try:
        value = key(batch) if callable(key) else batch[key]
    except (KeyError, IndexError, TypeError) as error:
        keys = f"the keys {list(batch)}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
        raise DataError(
            f"needed conditions under {key!r} in validation batches; a batch has {keys}. Say where: condition_key=…."
        ) from error
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor)[:, None] if value.ndim == 0 else value.as_subclass(Tensor)
    return list(value)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.3g}"
