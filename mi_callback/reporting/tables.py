"""Tables as text: in narrow places, where long cells are wrapped and ids cut in the middle, and for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet computes: such a text gets an apostrophe in front."""


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[int] = ()
) -> str:
    """A table in plain text.

    Args:
        widths: Characters of each column at most; longer cells go on below.
        right: Columns aligned to the right.
    """
    cells = [
        [wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(row, widths, strict=True)]
        for row in [list(header), *rows]
    ]
    taken = [max(len(line) for row in cells for line in row[column]) for column in range(len(widths))]
    lines = []
    for row in cells:
        for parts in zip_longest(*row, fillvalue=""):
            shown = [
                part.rjust(width) if column in right else part.ljust(width)
                for column, (part, width) in enumerate(zip(parts, taken, strict=True))
            ]
            lines.append("  ".join(shown).rstrip())
        if row is cells[0]:
            lines.append("  ".join("-" * width for width in taken))
    return "\n".join(lines)


def shortened(text: str, most: int = 40) -> str:
    """At most `most` characters on one line, the middle left out: both ends of an id tell people apart.

    Example:
        >>> shortened("a-long-identifier-of-a-person", 12)
        'a-lon…person'
    """
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[len(text) - most // 2 :]}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV file, in which no cell is a formula when a spreadsheet opens it.

    Example:
        >>> print(csv_text(["subject", "mi"], [["=1+1", -0.5]]), end="")
        subject,mi
        '=1+1,-0.5
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def plain_text(cell: str) -> str:
    """The text of a cell as it was before `csv_text` made it harmless.

    Example:
        >>> plain_text("'=1+1"), plain_text("'tis")
        ('=1+1', "'tis")
    """
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULAS) else cell


def _harmless(cell: Any) -> Any:
    """A text that a spreadsheet takes for text; numbers as they are."""
    if isinstance(cell, (bool, int, float)) or cell is None:
        return cell
    text = str(cell)
    return f"'{text}" if text.startswith(FORMULAS) else text
