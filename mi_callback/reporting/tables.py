"""Text in narrow places: tables whose long cells are wrapped, ids cut in the middle."""

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap


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
