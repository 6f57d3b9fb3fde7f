"""`manifest.csv` and its like: whose image each file is, as spreadsheets of any country write it."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mi_callback.errors import DataError, OptionError
from mi_callback.images.files.archives import unpacked_name
from mi_callback.images.files.kinds import ENDINGS
from mi_callback.images.files.tables import read_table

MANIFESTS = ("manifest.csv", "manifest.tsv", "manifest.parquet")

NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file_name", "path", "filepath", "file_path", "image", "image_path"),
    "subject": ("subject", "subject_id", "patient", "patient_id", "participant", "participant_id"),
    "session": ("session", "session_id", "ses", "visit"),
    "site": ("site", "site_id", "center", "centre", "scanner", "institution"),
    "sex": ("sex", "gender"),
    "age": ("age", "age_years"),
}
"""Names of columns, of which the first that is there counts; capitals, blanks and hyphens do not matter."""

NEEDED = ("file", "subject")


@dataclass
class Manifest:
    """What the manifests of a folder say.

    Attributes:
        read: The manifests.
        subject_of: File → subject.
        details: File → its session, site, sex and age, those that are there.
        missing: Files that a manifest names and that are not there.
    """

    read: list[Path] = field(default_factory=list)
    subject_of: dict[Path, str] = field(default_factory=dict)
    details: dict[Path, dict[str, str]] = field(default_factory=dict)
    missing: list[Path] = field(default_factory=list)


class _Row(NamedTuple):
    file: str
    subject: str
    details: dict[str, str]


def read_manifests(root: Path, members: Sequence[Path] = (), columns: Mapping[str, str] | None = None) -> Manifest:
    """Every manifest at or below a folder, and the one beside it.

    Paths in a manifest begin where it lies, or are the end of the path of one file there.

    Args:
        root: The folder.
        members: Files within archives, which a manifest may name too.
        columns: Names of the columns where they are others than `NAMES`: `{"file": "scan", "subject": "who"}`.

    Raises:
        DataError: If a manifest cannot be read, lacks a column, says two things of one file, or none of its rows names
            a file that is there.
        OptionError: If `columns` names what is no column of a manifest.
    """
    if unknown := set(columns or ()) - NAMES.keys():
        raise OptionError(f"needed columns out of {list(NAMES)}; {sorted(unknown)} came.")
    manifest = Manifest()
    for path in find_manifests(root):
        # The one beside the folder may be about other folders.
        _add(manifest, path, members, columns or {}, of_all=path.parent != root.parent)
    return manifest


def find_manifests(root: Path) -> list[Path]:
    """The manifests beside, in and below a folder."""
    beside = [root.parent / name for name in MANIFESTS]
    below = sorted(path for name in MANIFESTS for path in root.rglob(name))
    return [path for path in [*beside, *below] if path.is_file()]


def _add(manifest: Manifest, path: Path, members: Sequence[Path], columns: Mapping[str, str], of_all: bool) -> None:
    """Add what a manifest says; where not all rows need be about the folder, whatever is wrong with it is left out."""
    try:
        rows = _rows(path, columns)
    except DataError:
        if of_all:
            raise
        return
    places = _Places(path.parent, members)
    found = [(row, places.find(row.file)) for row in rows]
    missing = [row.file for row, place in found if place is None]
    if missing and of_all:
        _say_missing(path, missing, len(rows))
        manifest.missing += [path.parent / name for name in missing]
    manifest.read.append(path)
    told: dict[Path, str] = {}
    for row, place in found:
        if place is not None:
            if told.setdefault(place, row.subject) != row.subject:
                raise DataError(f"needed one subject for each file in {path}; {row.file!r} has two.")
            manifest.details[place] = row.details
    manifest.subject_of |= told


def _say_missing(manifest: Path, missing: list[str], rows: int) -> None:
    said = f"{len(missing)} of the {rows} files that {manifest} names are not there, such as {missing[0]!r}"
    if len(missing) == rows:
        raise DataError(f"needed files beside their manifest; {said}.")
    warnings.warn(f"{said}.", stacklevel=7)


def _rows(manifest: Path, columns: Mapping[str, str]) -> list[_Row]:
    """Every row that has both a file and a subject."""
    header, rows = read_table(manifest)
    places = {what: _place(header, columns.get(what), names) for what, names in NAMES.items()}
    lacking = [columns.get(what, what) for what in NEEDED if places[what] is None]
    lacking += [name for what, name in columns.items() if what not in NEEDED and places[what] is None]
    if lacking:
        raise DataError(
            f"needed the columns {' and '.join(dict.fromkeys((*NEEDED, *lacking)))} in {manifest}; it has {header}. "
            "Rename them, name yours by columns={'file': …, 'subject': …}, or pass subject_of=…."
        )
    found = []
    for row in rows:
        cells = {what: row[k] for what, k in places.items() if k is not None and k < len(row) and row[k]}
        if all(what in cells for what in NEEDED):
            found.append(_Row(cells.pop("file"), cells.pop("subject"), cells))
    return found


def _place(header: Sequence[str], chosen: str | None, names: Sequence[str]) -> int | None:
    """Which column is meant; None where there is none."""
    if chosen is not None:
        return header.index(chosen) if chosen in header else None
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in header]
    return next((plain.index(name) for name in names if name in plain), None)


class _Places:
    """Files at and below a folder, by how a manifest may name them."""

    def __init__(self, folder: Path, members: Sequence[Path]) -> None:
        self.folder = folder
        self._members = {unpacked_name(path, folder): path for path in members if path.is_relative_to(folder)}
        self._by_end: dict[str, list[Path]] | None = None

    def find(self, name: str) -> Path | None:
        """The file that is meant; None where there is none, or more than one."""
        name = name.replace("\\", "/")
        path = Path(name) if name.startswith("/") else self.folder / name
        # As the folder's own listing names it, without `..`.
        plain = Path(os.path.normpath(path))
        if plain in self._members:
            return self._members[plain]
        if plain in self._members.values() or os.path.exists(path):
            return plain
        ends = [path for path in self._named(Path(name).name) if f"/{path.as_posix()}".endswith(f"/{name}")]
        return ends[0] if len(ends) == 1 else None

    def _named(self, name: str) -> list[Path]:
        if self._by_end is None:
            self._by_end = {}
            endings = tuple(ending for known in ENDINGS.values() for ending in known)
            files = [path for path in self.folder.rglob("*") if path.name.lower().endswith(endings)]
            for path in [*files, *self._members.values()]:
                self._by_end.setdefault(path.name, []).append(path)
        return self._by_end.get(name, [])
