"""Files that are readable by their owner alone, replaced whole, and known by their content."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mi_callback.errors import OutputError

PART = ".part"
"""Ending of a file that is being written."""

BLOCK = 2**20
"""Bytes that are hashed at a time."""


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: whoever reads it sees the old content or the new one.

    Args:
        path: Where; its folder exists. The file is readable by its owner alone, also where another one was there.
        content: All of it.

    Raises:
        OutputError: If it cannot be written.
    """
    write_beside(path, lambda file: file.write(content))


def write_beside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """As `replace_file`, with what a function writes into an open file.

    Raises:
        OutputError: If it cannot be written.
    """
    unfinished = path.with_name(path.name + PART)
    try:
        # A file that a killed run left behind may be open to others.
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"needed to write {path}; {error.strerror}. Free space, or choose another folder.") from error


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
