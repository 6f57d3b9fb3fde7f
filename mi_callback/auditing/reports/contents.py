"""Images by their contents: hashes of files that do not change with names and places."""

from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from mi_callback.images.files import Slice, SliceFolder
from mi_callback.reporting.document import Side
from mi_callback.reporting.record.files import sha256_of

KEY = 16
"""Hexadecimal digits of the key of a sample and its match."""


class Contents:
    """Hashes of files, each read once."""

    def __init__(self) -> None:
        self._of = cache(_hash)

    def side(self, images: SliceFolder) -> Side:
        """What there is to say of a folder."""
        files = sorted({piece.path for piece in images.slices})
        people = None if images.subjects is None else len(set(images.subjects))
        return Side(len(images), people, len(files), self._together(files))

    def keys(self, generated: Sequence[Slice], matches: Sequence[Slice]) -> list[str]:
        """A key for each sample with its match: the same for the same two images, wherever they lie."""
        return [
            sha256(f"{self._name(one)} {self._name(other)}".encode()).hexdigest()[:KEY]
            for one, other in zip(generated, matches, strict=True)
        ]

    def _name(self, piece: Slice) -> str:
        return f"{self._of(piece.path)}:{piece.position}"

    def _together(self, files: Iterable[Path]) -> str:
        return sha256("".join(sorted(self._of(path) for path in files)).encode()).hexdigest()


def _hash(path: Path) -> str:
    """Of a file; of a folder, which is a volume in pictures, of those in the order of their names."""
    if path.is_dir():
        return sha256(
            "".join(sha256_of(part) for part in sorted(path.iterdir()) if part.is_file()).encode()
        ).hexdigest()
    return sha256_of(path)
