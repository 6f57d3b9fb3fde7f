"""Work on rank zero alone, whose errors end every rank: the others would wait for it for ever."""

from collections.abc import Callable
from typing import Any

from mi_callback.errors import StateError


def guarded(work: Callable[[], object]) -> Exception | None:
    """What the work raised; None where it went well."""
    try:
        work()
    except StopIteration as error:  # would end whatever loop is around in silence
        stopped = StateError(f"needed the work of rank zero to end by itself; StopIteration came ({error}).")
        stopped.__cause__ = error
        return stopped
    except Exception as error:
        return error
    return None


def raise_everywhere(trainer: Any, problem: Exception | None) -> None:
    """Raise on every rank what rank zero's work raised.

    Raises:
        StateError: On other ranks, with the message of the error.
    """
    message = trainer.strategy.broadcast(None if problem is None else f"{type(problem).__name__}: {problem}")
    if problem is not None:
        raise problem
    if message is not None:
        raise StateError(f"needed rank zero to score; it stopped with {message}")


SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")
"""Strategies under which no rank can sample alone."""


def check_strategy(trainer: Any) -> None:
    """Refuse strategies under which no rank can sample alone.

    Raises:
        StateError: For those that shard the model.
    """
    strategy = type(trainer.strategy).__name__
    if any(name in strategy for name in SHARDED):
        raise StateError(
            f"needed a strategy in which every rank holds the whole model, for rank zero draws the samples alone; "
            f"{strategy} shards it. Score checkpoints afterwards with MemorizationDetector."
        )
