"""Images by their contents: hashes of files that do not change with names and places."""

from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from mi_callback.images.files import Slice, SliceFolder
from mi_callback.images.files.archives import local_file
from mi_callback.private_files import sha256_of
from mi_callback.reporting.document import Side

KEY = 16
"""Hexadecimal digits of the key of a sample and its match."""


def volume_of(piece: Slice) -> Path:
    """The volume of a slice: its file or DICOM series, and for pictures the folder that they are in."""
    return piece.path.parent if piece.volume is None else piece.volume


class Contents:
    """Hashes of what is in folders, each file read once.

    Args:
        sides: The folders.
    """

    def __init__(self, sides: Iterable[SliceFolder]) -> None:
        self._files: dict[Path, set[Path]] = {}
        for piece in (piece for side in sides for piece in side.slices):
            self._files.setdefault(piece.path, {piece.path})
            self._files.setdefault(volume_of(piece), set()).add(piece.path)
        self._of = cache(_hash)

    def side(self, images: SliceFolder) -> Side:
        """What there is to say of a folder."""
        files = set(images.files.read)
        people = None if images.subjects is None else len(set(images.subjects))
        return Side(len(images), people, len(files), self._together(files))

    def keys(self, generated: Sequence[Slice], matches: Sequence[Slice]) -> list[str]:
        """A key for each sample with its match: the same for the same two images, wherever they lie."""
        return [
            sha256(f"{self._name(one)} {self._name(other)}".encode()).hexdigest()[:KEY]
            for one, other in zip(generated, matches, strict=True)
        ]

    def _name(self, piece: Slice) -> str:
        files = self._files[piece.path]
        return f"{self._of(piece.path) if files == {piece.path} else self._together(files)}:{piece.position}"

    def _together(self, files: Iterable[Path]) -> str:
        return sha256("".join(sorted(self._of(path) for path in files)).encode()).hexdigest()


def _hash(path: Path) -> str:
    with local_file(path) as local:  # it may be in an archive
        if not local.is_dir():
            return sha256_of(local)
        names = sorted(file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file())
        return sha256("".join(f"{name} {sha256_of(local / name)}\n" for name in names).encode()).hexdigest()
