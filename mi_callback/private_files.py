"""Files that are readable by their owner alone, replaced whole, and known by their content."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex

from mi_callback.errors import OutputError

PART = ".part"
"""Ending of a file that is being written."""

STALE = 3600
"""Seconds after which nobody is still writing a file that has not changed."""

OWNER = 0o600
"""Who may read and write: the owner alone."""

BLOCK = 2**20
"""Bytes that are hashed at a time."""


@contextmanager
def replaced(path: Path, shared: bool = False) -> Iterator[Path]:
    """A file beside a place, to be written, that moves there when the context ends: whoever reads there sees the old
    content or the new one, also after a kill.

    Args:
        path: Where; its folder exists. The file is readable by its owner alone, also where another one was there.
        shared: Whether other processes may write there at the same time: the last one that is finished counts. What
            killed ones left behind goes when it is `STALE`.

    Raises:
        OutputError: If it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{token_hex(8)}{PART}" if shared else path.name + PART)
    try:
        if shared:
            sweep(path.parent, f"{escape(path.name)}.*{PART}")
        # A file that a killed run left behind may be open to others.
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER))
        yield unfinished
        unfinished.chmod(OWNER)  # libraries may have put a file of their own there
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(f"needed to write {path}; {why}. Free space, or choose another folder.") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def sweep(folder: Path, pattern: str) -> None:
    """Remove unfinished files that nobody is writing any more.

    Args:
        folder: Where they are.
        pattern: Of their names, as in `Path.glob`.
    """
    for left in folder.glob(pattern):
        with suppress(OSError):  # others may sweep, too
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Write all of a file as `replaced` does.

    Raises:
        OutputError: If it cannot be written.
    """
    with replaced(path) as unfinished:
        unfinished.write_bytes(content)


def make_private(folder: Path, own: Callable[[str], bool]) -> None:
    """A folder that its owner alone may open.

    A folder that was there is closed to others where everything in it is ours; a folder that holds other things as well
    may be shared on purpose and stays as it is.

    Args:
        folder: Made with its parents where it does not exist.
        own: Whether a name in it is ours.

    Raises:
        OutputError: If it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if all(own(path.name) for path in folder.iterdir()):
            folder.chmod(0o700)
    except OSError as error:
        raise OutputError(f"needed to write into the folder {folder}; {error.strerror}. Choose another one.") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
