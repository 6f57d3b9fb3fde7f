"""Files within zip archives, as if they lay in a folder of the archive's name: `a.zip/scans/1.dcm`."""

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mi_callback.images.files.accounts import FileError, Reason

ARCHIVE = ".zip"

MOST_BYTES = 4 << 30
"""Bytes that one member may hold."""

FREE, EXPANSION = 1 << 30, 100
"""An archive may expand to so many bytes, with those within it, and beyond them to so many times its own size. Scans
shrink up to tenfold."""

DEEPEST, MOST_ARCHIVES = 3, 500
"""Archives within one another, and archives within one, at most."""

HEADERS = (".hdr", ".mhd", ".nhdr")
"""Endings of headers whose data are in another file."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive by its name."""
    return path.name.lower().endswith(ARCHIVE)


class Room:
    """What an archive may still expand to, with all archives within it.

    Args:
        archive: The outermost one, a file.
    """

    def __init__(self, archive: Path) -> None:
        self.archive, self.depth = archive, 1
        self._taken = {"bytes": 0, "archives": 0}

    def within(self, archive: Path) -> "Room":
        """The same, for an archive within this one."""
        inner = copy(self)  # with the same count of what was taken
        inner.archive, inner.depth = archive, self.depth + 1
        return inner

    def enter(self) -> None:
        """Count the archive, before it is opened.

        Raises:
            FileError: If it lies too deep, or there are too many.
        """
        self._taken["archives"] += 1
        if self.depth > DEEPEST or self._taken["archives"] > MOST_ARCHIVES:
            raise FileError(
                Reason.TOO_LARGE,
                f"needed at most {DEEPEST} archives within one another and {MOST_ARCHIVES} in one; {self.archive} is "
                "beyond. Unpack it yourself, if it is meant so.",
            )

    def take(self, count: int) -> None:
        """Count the bytes that it expands to, before anything in it is read.

        Raises:
            FileError: If they are too many.
        """
        self._taken["bytes"] += count
        outermost = archive_of(self.archive) or self.archive
        total = self._taken["bytes"]
        if total > FREE and total > EXPANSION * outermost.stat().st_size:
            raise FileError(
                Reason.TOO_LARGE,
                f"needed an archive that expands to at most {EXPANSION} times its size; {outermost} would fill "
                f"{total / 1e9:.0f} GB. Unpack it yourself, if it is meant so.",
            )


def list_members(archive: Path, room: Room) -> list[Path]:
    """Files in an archive, each as a path below it.

    Args:
        archive: A file, or within another archive.
        room: What it may expand to.

    Raises:
        FileError: If it is damaged, encrypted, expands too far, or a name in it leads out of it.
    """
    room.enter()
    with _told_as_archive(archive):
        members = [member for member in _opened(archive).infolist() if not member.is_dir()]
    room.take(sum(member.file_size for member in members))
    for member in members:
        _check(member, archive)
    return [archive / member.filename for member in members]


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """The file itself, or that of an archive unpacked for as long as the context lasts, readable by its owner alone.

    With a header comes what has the same name and another ending: its data.

    Raises:
        FileError: If the archive is damaged.
    """
    archive = archive_of(path)
    if archive is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        with _told_as_archive(archive):
            _unpack(*_innermost(path, archive), Path(folder))
        local = Path(folder) / path.name
        try:
            yield local
        except FileError as error:
            raise FileError(error.reason, str(error).replace(str(local), str(path))) from error


def read_head(path: Path, count: int) -> bytes | None:
    """The first bytes of a file or of one in an archive; None where it cannot be read."""
    archive = archive_of(path)
    try:
        if archive is None:
            with path.open("rb") as file:
                return file.read(count)
        whole, name = _innermost(path, archive)
        with whole.open(name) as file:
            return file.read(count)
    except Exception:  # whoever reads it says what is wrong with it
        return None


def archive_of(path: Path) -> Path | None:
    """The archive on the disk that a file lies in, the outermost one; None for a file of its own."""
    if ARCHIVE not in str(path).lower():
        return None
    return next((above for above in path.parents if is_archive(above) and above.is_file()), None)


def unpacked_name(path: Path, root: Path) -> Path:
    """A path as if the archives below `root` were folders: `root/p1.zip/a.png` → `root/p1/a.png`."""
    parts = [part[: -len(ARCHIVE)] if part.lower().endswith(ARCHIVE) else part for part in path.relative_to(root).parts]
    return root.joinpath(*parts)


def when_changed(path: Path) -> int:
    """When a file, or the archive that it lies in, was written."""
    return (archive_of(path) or path).stat().st_mtime_ns


def _opened(archive: Path) -> zipfile.ZipFile:
    # A position in a file is shared with forked processes: each opens its own.
    return _open(archive, when_changed(archive), os.getpid())


@lru_cache(maxsize=8)
def _open(archive: Path, _changed: int, _process: int) -> zipfile.ZipFile:
    outermost = archive_of(archive)
    if outermost is None:
        return zipfile.ZipFile(archive)
    whole, name = _innermost(archive, outermost)
    file = tempfile.TemporaryFile()  # noqa: SIM115  without a name: it goes with whoever holds it
    with whole.open(name) as member:
        shutil.copyfileobj(member, file)
    return _Unpacked(file)


class _Unpacked(zipfile.ZipFile):
    """An archive in a file of its own, which closes that with itself."""

    def close(self) -> None:
        file = self.fp
        super().close()
        if file is not None:
            file.close()


def _innermost(path: Path, outermost: Path) -> tuple[zipfile.ZipFile, str]:
    """The archive that a file lies in, and its name there."""
    whole, start, parts = _opened(outermost), 0, path.relative_to(outermost).parts
    for end in range(1, len(parts)):
        name = "/".join(parts[start:end])
        if name.lower().endswith(ARCHIVE) and name in whole.NameToInfo:  # no folder of such a name
            whole, start = _opened(outermost.joinpath(*parts[:end])), end
    return whole, "/".join(parts[start:])


def _check(member: zipfile.ZipInfo, archive: Path) -> None:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
        raise FileError(
            Reason.DAMAGED, f"needed names within the archive; {archive} holds one that leads out: {member.filename!r}."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise FileError(Reason.DAMAGED, f"needed files; {archive} holds the link {member.filename!r}. Unpack it.")
    if member.flag_bits & 1:
        raise FileError(Reason.NOT_ALLOWED, f"needed an archive without a password; {archive} has one. Unpack it.")
    if member.file_size > MOST_BYTES:
        raise FileError(Reason.TOO_LARGE, f"needed files of at most 4 GB; {archive} holds a larger one. Unpack it.")


def _unpack(whole: zipfile.ZipFile, inner: str, folder: Path) -> None:
    for name in [inner, *_beside(whole, inner)]:
        with whole.open(name) as member, (folder / PurePosixPath(name).name).open("wb") as file:
            shutil.copyfileobj(member, file)


def _beside(whole: zipfile.ZipFile, inner: str) -> list[str]:
    if not inner.lower().endswith(HEADERS):
        return []
    path = PurePosixPath(inner)
    stem = path.name.partition(".")[0]
    return [
        name
        for name in whole.namelist()
        if name != inner
        and PurePosixPath(name).parent == path.parent
        and PurePosixPath(name).name.partition(".")[0] == stem
    ]


@contextmanager
def _told_as_archive(archive: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise
    except Exception as error:  # damage of each part of an archive has an error of its own
        raise FileError(
            Reason.DAMAGED, f"needed a readable archive; {archive} is damaged or not what its name says ({error})."
        ) from error
