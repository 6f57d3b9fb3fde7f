"""What was computed before, in files under a hash of all that it follows from: fitted states, and parts of large jobs.

Fitted states of several data sets and settings lie in one folder, each under a hash of both.

A change of the data, of the encoder, of the code or of any setting is another hash: no state is taken for another.
Those that were not used for longest go.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_callback.errors import OptionError
from mi_callback.fingerprints import canonical_json, content_hash
from mi_callback.private_files import PART, make_private, replaced, sweep

ENDING = ".state"
"""Of the files in such a folder."""

POWER = ".power"
"""Follows the name of a state, in that of the file in which the result of its power self-test is kept."""

LIMIT = 20 * 2**30
"""Bytes of all states in a folder; the newest one stays, however large."""


@dataclass(frozen=True)
class Identity:
    """Of the images that a state was fitted on.

    Attributes:
        data: Hash of every pixel and subject of both sides.
        train: That of each training image, uint8 `(n, 16)`.
        held_out: The same of each held-out image.
        outline: Hash of what can be told without reading images; None where that tells nothing.
    """

    data: str
    train: Tensor = field(repr=False)
    held_out: Tensor = field(repr=False)
    outline: str | None = None


def checked_cache(cache: Any) -> str | Path | None:
    """The path of a file, or of a folder for states alone, or None.

    Raises:
        OptionError: If it is no path, or a folder that holds other things.
    """
    if cache is None:
        return None
    if not isinstance(cache, (str, Path)) or not str(cache):
        raise OptionError(f"needed cache as the path of a file; {cache!r} came.")
    if Path(cache).is_dir() and not all(is_ours(path.name) for path in Path(cache).iterdir()):
        raise OptionError(
            f"needed cache as a file, or a folder for states alone; {cache} holds other things. Name a file in it: "
            f"{Path(cache) / 'state'}."
        )
    return cache


def is_ours(name: str) -> bool:
    """Whether a file in a folder is a state, stands beside one, or is unfinished."""
    return name.endswith((ENDING, ENDING + POWER)) or (f"{ENDING}." in name and name.endswith(PART))


def power_beside(state: Path) -> Path:
    """The file in which the result of the power self-test of a state is kept."""
    return state.with_name(state.name + POWER)


def kept_at(cache: Path, settings: Mapping[str, Any], data: str | None) -> Path:
    """The file of a state: the one that was named, or in a folder that of these settings and data."""
    if data is None or not cache.is_dir():
        return cache
    return cache / f"{content_hash(canonical_json(dict(settings)), data)}{ENDING}"


def states_in(cache: Path) -> list[Path]:
    """The states that there may be: the file, or those in the folder, the one that was used last first."""
    if not cache.is_dir():
        return [cache] if cache.is_file() else []
    found = list[tuple[float, Path]]()
    for state in cache.glob(f"*{ENDING}"):
        with suppress(OSError):  # another process may have removed it
            found.append((state.stat().st_mtime, state))
    return [state for _, state in sorted(found, reverse=True)]


def mark_used(state: Path) -> None:
    """Say that a state was used now."""
    with suppress(OSError):  # a cache that can only be read is one, too
        os.utime(state)


def tidy(folder: Path, newest: Path, limit: int | None = None) -> None:
    """Close a folder of states to others, and remove the states that were not used for longest, beyond the limit.

    Args:
        folder: Holds states.
        newest: The state that stays in any case.
        limit: Bytes; `LIMIT` when None.
    """
    make_private(folder, is_ours)
    sweep(folder, f"*{ENDING}.*{PART}")
    sizes = dict[Path, tuple[float, int]]()
    for state in folder.glob(f"*{ENDING}"):
        with suppress(OSError):  # another process may have removed it
            found = state.stat()
            sizes[state] = found.st_mtime, found.st_size
    left = (LIMIT if limit is None else limit) - sizes.pop(newest, (0.0, 0))[1]
    for state in sorted(sizes, key=lambda one: sizes[one][0], reverse=True):
        left -= sizes[state][1]
        if left < 0:
            power_beside(state).unlink(missing_ok=True)
            state.unlink(missing_ok=True)


class Kept:
    """Blocks of what was computed, a file each, readable by their owner alone.

    Args:
        folder: Made with the first block.
        kinds: All that a block may hold beside tensors, texts and numbers: reading one runs no other code.
    """

    def __init__(self, folder: Path, kinds: Sequence[type]) -> None:
        self.folder, self.kinds = folder, kinds

    def has(self, key: str) -> bool:
        """Whether a block was written."""
        return (self.folder / key).is_file()

    def part(self, key: str, compute: Callable[[], Any]) -> Any:
        """The block of a key: read where it is there and whole, else computed and kept.

        Raises:
            OutputError: If it cannot be written.
        """
        path = self.folder / key
        try:
            with torch.serialization.safe_globals(list(self.kinds)):
                return torch.load(path, weights_only=True)
        except Exception:  # not there, cut short, or of another version: each has errors of its own
            part = compute()
        make_private(self.folder, lambda name: True)
        with replaced(path, shared=True) as unfinished:
            torch.save(part, unfinished)
        return part
