"""Tables as spreadsheets and programs write them: CSV with any separator and encoding, Parquet."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mi_callback.errors import DataError

_SEPARATORS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SEEN = 1000
"""Bytes at the beginning of a file by which an encoding without a mark is told."""


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns of a table, and its rows, all as text without blanks around it.

    Raises:
        DataError: If the table cannot be read, or pyarrow is needed for it and not installed.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    lines = list(_read_text(path))
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    return header, [row for row in rows if any(row)]


def _read_text(path: Path) -> Iterator[list[str]]:
    text = _decoded(path)
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep="):  # which Excel takes for the separator
        separator, text = first.strip()[4:5] or ",", rest
    else:
        separator = max(_SEPARATORS, key=first.count)
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True):
            yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise DataError(f"needed a table in {path}; a row of it cannot be read ({error}).") from error


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"needed a table that may be read; {path} may not ({error.strerror}).") from error
    for encoding in (_encoding(content), "cp1252", "latin-1"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"needed text in {path}; it is in no encoding that is known.")


def _encoding(content: bytes) -> str:
    if mark := _MARKS.get(content[:2]):
        return mark
    # Letters of most languages have a zero as their second byte in UTF-16, or as their first.
    zeros = [content[start:_SEEN:2].count(0) for start in (0, 1)]
    if max(zeros) > min(len(content), _SEEN) / 8:
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    return "utf-8-sig"


def _read_parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"needed pyarrow to read {path}: pip install 'mi-callback[formats]'; it is not installed."
        ) from error
    try:
        table = parquet.read_table(path)
        columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"needed a table in {path}; it is damaged or no Parquet ({error}).") from error
    return list(table.column_names), [list(row) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> str:
    """A value as text: whole numbers without a point, nothing where it is missing."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
