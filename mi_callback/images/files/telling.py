"""Whatever a library raises about a file becomes one error that names the file and says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mi_callback.errors import DataError
from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.archives import read_head

POINTER = b"version https://git-lfs"
"""How a file begins whose content Git-LFS has not fetched."""


@contextmanager
def told_by_name(path: Path) -> Iterator[None]:
    """Raise `FileError` with the name of the file for whatever goes wrong while it is read."""
    try:
        yield
    except FileError as error:
        raise _diagnose(path) or error from error.__cause__
    except DataError as error:
        raise FileError(Reason.VALUES, str(error)) from error
    except PermissionError as error:
        raise FileError(Reason.NOT_ALLOWED, f"needed a file that may be read; {path} may not.") from error
    except MemoryError as error:
        raise FileError(Reason.TOO_LARGE, f"needed a file that fits into memory; {path} does not.") from error
    except Exception as error:  # each library has errors of its own
        raise _diagnose(path) or _damaged(path, error) from error


def needs(library: str, extra: str, path: Path) -> FileError:
    """The error of a file that a library would read which is not installed."""
    return FileError(
        Reason.LIBRARY, f"needed {library} to read {path}: pip install 'mi-callback[{extra}]'; it is not installed."
    )


def _diagnose(path: Path) -> FileError | None:
    """What is wrong with files without content of their own; None for others."""
    head = read_head(path, len(POINTER))
    if head == b"":
        return FileError(Reason.NO_BYTES, f"needed a readable image; {path} is empty.")
    if head == POINTER:
        return FileError(Reason.NOT_FETCHED, f"needed a readable image; {path} is a pointer of Git-LFS: git lfs pull.")
    return None


def _damaged(path: Path, error: Exception) -> FileError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return FileError(Reason.DAMAGED, f"needed a readable image; {path} is damaged or not what its name says ({said}).")
