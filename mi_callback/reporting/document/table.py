"""The table of samples: a row each, with paths and the person it matches. Patient data."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_callback.errors import RecordError
from mi_callback.reporting.tables import csv_text, plain_text
from mi_callback.scores import Scores

NUMBERS = ("mi", "oni", "p_value", "similarity", "verified", "copied_fraction", "consensus")
"""Columns that are attributes of `Scores` of the same name."""

COLUMNS = ("generated", "slice", "flagged", *NUMBERS, "pose", "match", "match_slice", "match_subject", "group", "key")
"""`group`: number of the group of near-duplicates. `key`: of sample and match, by their contents."""


@dataclass(frozen=True)
class Row:
    """What later steps need of a row.

    Attributes:
        generated, slice: Where the sample lies; `slice` is empty where it is not one of a volume.
        flag: Whether it is flagged.
        p_value: Its p-value.
        group: Near-duplicates have the same.
        key: Of sample and match, by their contents.
    """

    generated: str
    slice: str
    flag: bool
    p_value: float
    group: int
    key: str


def write_table(
    scores: Scores, generated: Sequence[tuple[Path, Any]], train: Sequence[tuple[Path, Any]], keys: Sequence[str]
) -> bytes:
    """The table as CSV.

    Args:
        scores: Of what was judged.
        generated: Path and slice of each image that `scores` belong to.
        train: The same of each training image.
        keys: Of each row.
    """
    rows = (_row(scores, i, generated[i], train[int(scores.match[i])], keys[i]) for i in range(len(scores)))
    return csv_text(COLUMNS, rows).encode("utf-8", errors="surrogateescape")


def write_parquet(
    scores: Scores, generated: Sequence[tuple[Path, Any]], train: Sequence[tuple[Path, Any]], keys: Sequence[str]
) -> bytes | None:
    """The same table as Parquet, with types, and texts as they are; None where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    rows = (_row(scores, i, generated[i], train[int(scores.match[i])], keys[i]) for i in range(len(scores)))
    columns = zip(COLUMNS, zip(*rows, strict=True), strict=True)
    table = pyarrow.table({name: pyarrow.array(map(_cell, cells), _type(name, pyarrow)) for name, cells in columns})
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue().to_pybytes()


def _cell(value: Any) -> Any:
    """Paths that are no UTF-8 have their odd bytes as escapes, for Parquet knows no others."""
    return str(value).encode(errors="backslashreplace").decode() if isinstance(value, (str, Path)) else value


def _type(name: str, pyarrow: Any) -> Any:
    if name in NUMBERS:
        return pyarrow.float64()
    if name == "flagged":
        return pyarrow.bool_()
    return pyarrow.int64() if name in ("slice", "match_slice", "group") else pyarrow.string()


def read_table(path: Path) -> list[Row]:
    """Rows of a table that `write_table` made.

    Raises:
        RecordError: If there is none, or it is another table.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return [_read_row(row) for row in rows]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RecordError(f"needed the table of an audit; {path} is none ({error}). Run the audit again.") from error


def _row(scores: Scores, i: int, generated: tuple[Path, Any], match: tuple[Path, Any], key: str) -> list[Any]:
    return [
        generated[0],
        generated[1],
        bool(scores.flagged[i]),
        *(float(getattr(scores, column)[i]) for column in NUMBERS),
        scores.pose[i],
        match[0],
        match[1],
        scores.match_subject[i],
        int(scores.flagging.group[i]),
        key,
    ]


def _read_row(row: dict[str, str]) -> Row:
    flagged = {"True": True, "False": False}[row["flagged"]]
    return Row(
        plain_text(row["generated"]), row["slice"], flagged, float(row["p_value"]), int(row["group"]), row["key"]
    )
