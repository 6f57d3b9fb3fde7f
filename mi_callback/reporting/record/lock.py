"""One process at a time writes into the folder of a report."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mi_callback.errors import BusyError, OutputError
from mi_callback.private_files import OWNER, replace_file

LOCK_FILE = ".lock"
"""The file that is locked. It stays, empty: the system takes the lock off when its holder ends, also by a kill."""

HOLDER_FILE = ".lock.holder"
"""Who holds the lock, for those who find it held."""


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes and threads from writing a report into a folder for as long as the context lasts.

    Args:
        folder: Of a report; where there is none, nothing is held.
        what: What is done, for whoever comes second: `audit`.

    Raises:
        BusyError: If it is held; the message says by whom, since when, and what to do.
        OutputError: If a file cannot be written in it.
    """
    if not folder.is_dir():
        yield
        return
    lock = FileLock(folder / LOCK_FILE, timeout=0, mode=OWNER)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(
            f"needed the folder {folder} for one process at a time; {_holder(folder)} is writing into it. Wait until "
            "it ends, or choose another out=DIR."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"needed to write into the folder {folder}; {error}. Choose another one.") from error
    try:
        replace_file(folder / HOLDER_FILE, f"mi-audit ({what}), {_this_process()}".encode())
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _this_process() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {platform.node() or 'an unnamed machine'} since {since}"


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER_FILE).read_text()
    except (OSError, ValueError):  # it has just begun or ended
        return "another process"
