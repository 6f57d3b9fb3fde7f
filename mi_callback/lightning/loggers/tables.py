"""Tables of flagged samples and of conditions, in numbers: positions in the sample and in the training set."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mi_callback.lightning.loggers.looks import Look
from mi_callback.scores import Scores

ROWS = 64
"""Rows of the table of flagged samples at most; the worst first."""

COLUMNS = ("sample", "mi", "p_value", "verified", "similarity", "match", "pose", "consensus")

GROUPS = ("condition", "samples", "flagged", "expected")


def flagged_table(scores: Scores, subjects: bool) -> tuple[list[str], list[list[Any]]]:
    """Column names and rows for the flagged samples, worst first, `ROWS` at most."""
    columns = list(COLUMNS) + (["subject"] if subjects else [])
    rows = []
    for i in [i for i in scores.closest(len(scores)) if scores.flagged[i]][:ROWS]:
        row = [
            i,
            float(scores.mi[i]),
            float(scores.p_value[i]),
            float(scores.verified[i]),
            float(scores.similarity[i]),
            int(scores.match[i]),
            scores.pose[i],
            int(scores.consensus[i]),
        ]
        # NaN (verification off) would vanish from charts without a word.
        row = [None if isinstance(value, float) and value != value else value for value in row]
        rows.append(row + ([scores.match_subject[i]] if subjects else []))
    return columns, rows


def group_rows(look: Look, scores: Scores) -> list[list[Any]]:
    """A row for each condition: flagged samples beside those to expect by chance, at most."""
    rule = scores.flagging.rule
    return [
        [name, n, flagged, n * rule.alpha if rule.fdr is None else flagged * rule.fdr]
        for name, n, flagged in look.groups
    ]


def value_range(values: Tensor) -> tuple[float, float]:
    """Wide enough for bins of finite size, also when a collapsed generator makes all values nearly equal."""
    low, high = float(values.min()), float(values.max())
    least = 1e-6 * max(1.0, abs(low), abs(high))
    return (low, high) if high - low > least else (low - least, high + least)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A pipe table; floats with three significant digits."""

    def cell(value: Any) -> str:
        return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [list(columns), ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def caption(scores: Scores, i: int) -> str:
    """What stands below the picture of a sample and its match."""
    return f"sample {i}, match {int(scores.match[i])}, MI {float(scores.mi[i]):.1f}, p {float(scores.p_value[i]):.3g}"
