"""Fitted states of several data sets and settings in one folder, each under a hash of both.

A change of the data, of the encoder, of the code or of any setting is another hash: no state is taken for another.
Those that were not used for longest go.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mi_callback.errors import OptionError
from mi_callback.fingerprints import canonical_json, content_hash
from mi_callback.private_files import PART, make_private, sweep

ENDING = ".state"
"""Of the files in such a folder."""

LIMIT = 20 * 2**30
"""Bytes of all states in a folder; the newest one stays, however large."""


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
    """Whether a file in a folder is a state, or an unfinished one."""
    return name.endswith(ENDING) or (f"{ENDING}." in name and name.endswith(PART))


def kept_at(cache: Path, settings: Mapping[str, Any], data: str | None) -> Path:
    """The file of a state: the one that was named, or in a folder that of these settings and data."""
    if data is None or not cache.is_dir():
        return cache
    return cache / f"{content_hash(canonical_json(dict(settings)), data)}{ENDING}"


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
            state.unlink(missing_ok=True)
