"""The processes of a run, which work together: an error on one ends all, and no wait has a limit.

What is exchanged goes through a group of its own. That of the strategy gives up after some minutes, and one rank may
need longer than another: to calibrate, to score, or to draw a slow sample. A rank that dies closes its connections,
which ends the wait of the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from mi_callback.errors import MemorizationError, StateError
from mi_callback.images.files.accounts import FileError
from mi_callback.lightning.time_limit import TimeUp

_T = TypeVar("_T")

UNTIMED = timedelta(days=365)
"""How long a rank waits for the others."""


class RankError(RuntimeError):
    """Another rank stopped with an error that is not of this package."""


class _Told(NamedTuple):
    """What other ranks are told of an error."""

    text: str
    ours: bool
    time: bool
    foreign: bool
    """Whether its text is not of this package alone, and may name files."""

    @classmethod
    def of(cls, problem: Exception | None) -> "_Told | None":
        if problem is None:
            return None
        ours = isinstance(problem, MemorizationError)
        foreign = not ours or isinstance(problem, FileError) or problem.__cause__ is not None
        return cls(f"{type(problem).__name__}: {problem}", ours, isinstance(problem, TimeUp), foreign)


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run. All of them call each method, equally often and in the same order.

    Attributes:
        rank: Of this process.
        size: Number of ranks.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, trainer: Any) -> "Ranks":
        """Those of a Trainer.

        Raises:
            StateError: If there are several, and torch.distributed is not what connects them.
        """
        if trainer.world_size == 1:
            return cls()
        if not (dist.is_available() and dist.is_initialized()):
            raise StateError(
                f"needed ranks that torch.distributed connects; {type(trainer.strategy).__name__} has "
                f"{trainer.world_size} without it. Score checkpoints afterwards with MemorizationDetector."
            )
        _group()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is rank zero."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which of the batches are this rank's: from the first number on, each that many further on."""
        return self.rank, self.size

    def wait(self) -> None:
        """Until all ranks are here."""
        self.all(None)

    def all(self, value: _T) -> list[_T]:
        """The value of every rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=_group())
        return found

    def gather(self, value: _T) -> list[_T]:
        """The value of every rank, on rank zero; nothing on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size if self.first else []
        dist.gather_object(value, found if self.first else None, dst=0, group=_group())
        return found

    def from_zero(self, value: _T) -> _T:
        """The value of rank zero."""
        if self.size == 1:
            return value
        found = [value]
        dist.broadcast_object_list(found, src=0, group=_group())
        return found[0]

    def exchange(self, value: _T, problem: Exception | None) -> list[_T]:
        """As `all`, unless a rank has a problem.

        Raises:
            Exception: This rank's problem, or on others, of a like family, what is told of it.
        """
        found = self.all((value, _Told.of(problem)))
        raise_told([told for _, told in found], problem)
        return [one for one, _ in found]

    def each(self, work: Callable[[], _T]) -> list[_T]:
        """What the work of every rank returned; it exchanges nothing itself.

        Raises:
            Exception: As `exchange`.
        """
        return self.all(self.each_own(work))

    def each_own(self, work: Callable[[], _T]) -> _T:
        """What the work of this rank returned, where that of all ranks goes well; it exchanges nothing itself.

        Raises:
            Exception: As `exchange`.
        """
        done: list[_T] = []
        problem = guarded(lambda: done.append(work()))
        self.exchange(None, problem)
        return done[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, each rank works by itself; an error of one is raised on all.

        Raises:
            Exception: As `exchange`.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = _ended(error)
        self.exchange(None, problem)


def told(problem: Exception | None) -> Any:
    """What may be sent to other ranks of an error, for `raise_told`; None for none."""
    return _Told.of(problem)


def raise_told(each: list[Any], own: Exception | None = None) -> None:
    """Raise where a rank has a problem: of the same family on every rank, so that all go the same way from there.

    Args:
        each: What every rank told of its problem.
        own: This rank's.

    Raises:
        Exception: Its own; `TimeUp` where time was up on all that stopped; `StateError` where another rank's error is
            of this package; `RankError` where it is not.
    """
    found = [(rank, one) for rank, one in enumerate(each) if one is not None]
    if not found:
        return
    ours = all(one.ours for _, one in found)
    if own is not None and isinstance(own, MemorizationError) == ours:
        raise own
    rank, first = next(one for one in found if one[1].ours == ours)
    text = f"needed every rank to go on; rank {rank} stopped with {first.text}"
    if not ours:
        raise RankError(text) from own
    kind = TimeUp if all(one.time for _, one in found) else StateError
    raise kind(text) from (RankError(first.text) if first.foreign else None)


def guarded(work: Callable[[], object]) -> Exception | None:
    """What the work raised; None where it went well."""
    try:
        work()
    except Exception as error:
        return _ended(error)
    return None


SHARDED = ("ModelParallelStrategy",)
"""Strategies under which no rank can sample alone: all call the model equally often."""

UNTRIED = ("FSDP", "DeepSpeed")
"""Strategies under which nobody has seen the callback work; `ModelParallelStrategy` shards with a newer FSDP."""


def sharded(trainer: Any) -> bool:
    """Whether each rank holds but a part of the model, so that all have to call it together."""
    return any(kind.__name__ in SHARDED for kind in type(trainer.strategy).__mro__)


def check_strategy(trainer: Any, timed: bool) -> None:
    """Refuse strategies under which samples cannot be drawn.

    Args:
        trainer: With its strategy.
        timed: Whether sampling may be cut short, on one rank and not on another.

    Raises:
        StateError: For FSDPStrategy, DeepSpeed, tensor parallelism, and a time limit where the model is sharded.
    """
    strategy = type(trainer.strategy).__name__
    if any(name in strategy for name in UNTRIED):
        raise StateError(
            f"needed a strategy that the callback was tried with; {strategy} was not. Take ModelParallelStrategy, or "
            "score checkpoints afterwards with MemorizationDetector."
        )
    mesh = getattr(trainer.strategy, "_device_mesh", None) if sharded(trainer) else None
    if mesh is not None and "tensor_parallel" in (mesh.mesh_dim_names or ()) and mesh["tensor_parallel"].size() > 1:
        raise StateError(
            "needed tensor_parallel_size=1, for each rank draws other samples; "
            f"{mesh['tensor_parallel'].size()} came. Score checkpoints afterwards with MemorizationDetector."
        )
    if timed and sharded(trainer):
        raise StateError(
            f"needed no time_limit under {strategy}: ranks call the model together, and one that stops keeps the "
            "others waiting. Leave it out, or draw fewer samples: n_samples=…."
        )


def _ended(error: Exception) -> Exception:
    """An error that ends no loop around in silence."""
    if not isinstance(error, StopIteration):
        return error
    stopped = StateError(f"needed work that ends by itself; StopIteration came ({error}).")
    stopped.__cause__ = error
    return stopped


_made: tuple[Any, Any] | None = None


def _group() -> Any:
    """The group in which nothing times out, made once for all ranks of a run."""
    global _made
    if _made is None or _made[0] is not dist.group.WORLD:
        _made = dist.group.WORLD, dist.new_group(backend="gloo", timeout=UNTIMED)
    return _made[1]
