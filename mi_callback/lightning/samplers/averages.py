"""Averaged weights: those that are released are those to sample from."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.lightning.ranks import Ranks
from mi_callback.lightning.samplers.found import AVERAGED

SHADOW = "shadow_params"
"""Where torch_ema and diffusers keep averaged weights: a list, in the order of the trained ones."""


def averaged_copy(module: nn.Module, name: str, network: nn.Module) -> tuple[str, nn.Module] | None:
    """The averaged copy of a network that a module keeps, and the name under which it does; None where there is none.

    Args:
        module: The LightningModule.
        name: Dotted name of the network below it.
        network: Of which a copy is looked for: of the same class, itself or within a wrapper.
    """
    last = name.rsplit(".", 1)[-1]
    for place in (*AVERAGED, f"ema_{last}", f"{last}_ema", f"averaged_{last}", f"{last}_averaged"):
        held = getattr(module, place, None)
        if held is None or held is network:
            continue
        for below in ("", ".module", ".ema_model", f".{last}", f".module.{last}"):
            found = _below(held, below)
            if isinstance(found, nn.Module) and type(found) is type(network) and found is not network:
                return f"{place}{below}", found
    return None


def averaged_weights(module: nn.Module) -> tuple[str, Callable[[], AbstractContextManager[None]]] | None:
    """The name of an object of a module that keeps averaged weights as a list, and the context that puts them in place.

    Objects of torch_ema and of diffusers do. None where there is none, or its list fits nothing in the module.
    """
    for place in AVERAGED:
        shadow = getattr(getattr(module, place, None), SHADOW, None)
        if shadow is None:
            continue
        for part in (module, *module.children()):
            weights = [weight for weight in part.parameters() if weight.requires_grad]
            if [tuple(one.shape) for one in weights] == [tuple(one.shape) for one in shadow]:
                return place, lambda weights=weights, shadow=shadow: put_in_place(weights, shadow)  # type: ignore[misc]
    return None


def swaps_averages(callbacks: Iterable[Any]) -> str | None:
    """Name of a callback that puts averaged weights in place while validation batches are run; None where none does."""
    for callback in callbacks:
        if any(kind.__name__ == "WeightAveraging" or "EMA" in kind.__name__ for kind in type(callback).__mro__):
            return type(callback).__name__
    return None


@contextmanager
def put_in_place(weights: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Other values in place of weights, which are put back bit by bit on every path."""
    own = [weight.detach().clone() for weight in weights]
    try:
        _copy(weights, others)
        yield
    finally:
        _copy(weights, own)


@contextmanager
def buffers_of_zero(ranks: Ranks, module: nn.Module) -> Iterator[None]:
    """The buffers of rank zero in place of each rank's own, which batch norm makes of the batches that it saw."""
    own = list(module.buffers()) if ranks.size > 1 else []
    values = ranks.from_zero([buffer.detach().cpu() for buffer in own] if ranks.first else [])
    if ranks.first or not own:
        yield
        return
    with put_in_place(own, values):
        yield


@torch.no_grad()
def _copy(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.data.copy_(value)  # without a new version: autograd and optimizers see the same weights afterwards


def _below(value: Any, path: str) -> Any:
    for part in path.split(".")[1:]:
        value = getattr(value, part, None)
    return value
