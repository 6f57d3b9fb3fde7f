"""What an audit found as files."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_callback.auditing.accounting import csv_text, files_table
from mi_callback.images.files import FileAccount, Slice
from mi_callback.scores import Scores

NUMBERS = ("mi", "oni", "p_value", "similarity", "verified", "copied_fraction", "consensus")
"""Columns of `scores.csv` that are attributes of `Scores` of the same name."""

COLUMNS = ("generated", "slice", "flagged", *NUMBERS, "pose", "match", "match_slice", "match_subject")


def write_report(
    scores: Scores,
    generated: Sequence[Slice],
    train: Sequence[Slice],
    out: Path,
    set_scores: Mapping[str, float] | None = None,
    files: Mapping[str, FileAccount] | None = None,
) -> None:
    """`scores.csv`, `files.csv` (patient data) and `summary.json` into a folder, each readable by its owner alone.

    A file of an earlier report is replaced in one step, the summary last: a report that was cut short has none.

    Args:
        scores: Of what was judged.
        generated: Where each image lies that `scores` belong to.
        train: Where each training image lies.
        out: The folder; made where it does not exist.
        set_scores: Set-level scores for the summary.
        files: What became of the files of each side.
    """
    files = files or {}
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    _replace(out / "scores.csv", _table(scores, generated, train))
    _replace(out / "files.csv", files_table(files))
    summary = _summary(scores, set_scores or {}) | {"files": {side: account.counts for side, account in files.items()}}
    _replace(out / "summary.json", json.dumps(summary, indent=2) + "\n")


def _table(scores: Scores, generated: Sequence[Slice], train: Sequence[Slice]) -> str:
    rows = (_row(scores, i, generated[i], train[int(scores.match[i])]) for i in range(len(scores)))
    return csv_text(COLUMNS, rows)


def _row(scores: Scores, i: int, generated: Slice, match: Slice) -> list[Any]:
    return [
        generated.path,
        generated.position,
        bool(scores.flagged[i]),
        *(float(getattr(scores, column)[i]) for column in NUMBERS),
        scores.pose[i],
        match.path,
        match.position,
        scores.match_subject[i],
    ]


def _summary(scores: Scores, set_scores: Mapping[str, float]) -> dict[str, Any]:
    """Aggregates alone: nothing in it is about one person."""
    summary: dict[str, Any] = {
        "verdict": scores.verdict,
        "doubts": scores.doubts,
        "n": len(scores),
        "alpha": scores.flagging.rule.alpha,
        "null": scores.flagging.null.kind,
        "null_subjects": scores.flagging.null.n_subjects,
        **scores.summary(),
        **{key: value if math.isfinite(value) else None for key, value in set_scores.items()},
    }
    if scores.power is not None:
        summary["power_by_change"] = {change: scores.power.share(change) for change in scores.power.flagged}
    if scores.flagging.calibrated:
        summary["certificate"] = scores.certificate().statement
    return summary


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".part")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", newline="", encoding="utf-8",
              errors="surrogateescape") as file:  # fmt: skip
        file.write(text)
    os.chmod(unfinished, 0o600)
    unfinished.replace(path)
