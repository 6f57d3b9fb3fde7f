"""`manifest.csv`: whose image each file is, as spreadsheets of any country write it."""

import csv
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from mi_callback.errors import DataError
from mi_callback.images.files.kinds import ENDINGS

MANIFEST = "manifest.csv"

FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "file_path", "image", "image_path")
SUBJECT_COLUMNS = ("subject", "subject_id", "patient", "patient_id", "participant", "participant_id")
"""Names of the two columns, of which the first that is there counts; capitals, blanks and hyphens do not matter."""

_SEPARATORS = ",;\t|"


def read_manifests(root: Path) -> dict[Path, str]:
    """File → subject, by every manifest at or below a folder and by the one beside it.

    Paths in a manifest begin where it lies, or are the end of the path of one file there.

    Raises:
        DataError: If a manifest cannot be read, lacks a column, or none of its rows names a file that is there.
    """
    subject_of: dict[Path, str] = {}
    for manifest in [root.parent / MANIFEST, *sorted(root.rglob(MANIFEST))]:
        if manifest.is_file():
            # The one beside the folder may be about other folders.
            subject_of |= _read(manifest, of_all=manifest.parent != root.parent)
    return subject_of


def _read(manifest: Path, of_all: bool) -> dict[Path, str]:
    """File → subject; where not all rows need be about the folder, whatever is wrong with them is left out."""
    try:
        rows = list(_rows(manifest))
    except DataError:
        if of_all:
            raise
        return {}
    places = _Places(manifest.parent)
    found = [(places.find(file), subject) for file, subject in rows]
    missing = [file for (file, _), (path, _) in zip(rows, found, strict=True) if path is None]
    if missing and of_all:
        _say_missing(manifest, missing, len(rows))
    return {path: subject for path, subject in found if path is not None}


def _say_missing(manifest: Path, missing: list[str], rows: int) -> None:
    said = f"{len(missing)} of the {rows} files that {manifest} names are not there, such as {missing[0]!r}"
    if len(missing) == rows:
        raise DataError(f"needed files beside their manifest; {said}.")
    warnings.warn(f"{said}.", stacklevel=6)


def _rows(manifest: Path) -> Iterator[tuple[str, str]]:
    """File and subject of every row that has both."""
    text = _text(manifest)
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    names = [_plain(name) for name in next(rows, [])]
    columns = [next((names.index(name) for name in known if name in names), None) for known in
               (FILE_COLUMNS, SUBJECT_COLUMNS)]  # fmt: skip
    if None in columns:
        raise DataError(
            f"needed the columns file and subject in {manifest}; it has {names}. Rename them, or pass subject_of=…."
        )
    for row in rows:
        values = [row[column].strip() if column is not None and column < len(row) else "" for column in columns]
        if all(values):
            yield values[0], values[1]


def _text(manifest: Path) -> str:
    content = manifest.read_bytes()
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    for encoding in (marks.get(content[:2], "utf-8-sig"), "cp1252", "latin-1"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"needed text in {manifest}; it is in no encoding that is known.")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


class _Places:
    """Files at and below a folder, by how a manifest may name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_end: dict[str, list[Path]] | None = None

    def find(self, name: str) -> Path | None:
        """The file that is meant; None where there is none, or more than one."""
        name = name.replace("\\", "/")
        path = Path(name) if name.startswith("/") else self.folder / name
        if path.exists():
            # As the folder's own listing names it, without `..`.
            return Path(os.path.normpath(path))
        ends = [path for path in self._named(Path(name).name) if f"/{path.as_posix()}".endswith(f"/{name}")]
        return ends[0] if len(ends) == 1 else None

    def _named(self, name: str) -> list[Path]:
        if self._by_end is None:
            self._by_end = {}
            endings = tuple(ending for known in ENDINGS.values() for ending in known)
            for path in self.folder.rglob("*"):
                if path.name.lower().endswith(endings):
                    self._by_end.setdefault(path.name, []).append(path)
        return self._by_end.get(name, [])
