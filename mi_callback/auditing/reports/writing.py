"""What an audit found as files, written so that no new table ever stands beside an old report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mi_callback.auditing.accounting import files_table
from mi_callback.images.files import FileAccount, Slice
from mi_callback.private_files import PART, make_private, replace_file, sha256_of
from mi_callback.reporting import Evidence, write_evidence
from mi_callback.reporting.document import Context, build_report, croissant, render_page, write_parquet, write_table
from mi_callback.reporting.record import append_entries, clear_unfinished, held, read_log
from mi_callback.reporting.record.lock import HOLDER_FILE, LOCK_FILE
from mi_callback.reporting.record.log import LOG_FILE
from mi_callback.reporting.record.verification import ANNEX, NEXT
from mi_callback.scores import Scores

REPORT, PAGE, TABLE, ACCOUNT, RELEASED = "report.json", "report.html", "scores.csv", "files.csv", "released.csv"
PARQUET, CROISSANT = "scores.parquet", "croissant.json"
"""Files of a report beside its log and its annex: `released.csv` is written by `mi-audit filter`."""

UNFINISHED = "unfinished"
"""Folder of what was computed for a report that is not written yet: see `auditing.resuming`."""

OLD = ("summary.json",)
"""Files that earlier versions wrote: they would pass for a part of this report."""

NAMES = (REPORT, PAGE, TABLE, PARQUET, ACCOUNT, CROISSANT, RELEASED, LOG_FILE, LOCK_FILE, HOLDER_FILE, UNFINISHED, *OLD)
"""All that may stand in the folder, beside the annex."""


@dataclass(frozen=True)
class Judged:
    """What was judged: images, or volumes by their slices.

    Attributes:
        scores: Of each.
        generated, train: Where each of both sides lies.
        slices: Scores of single images, of which evidence is drawn.
    """

    scores: Scores
    generated: Sequence[Slice]
    train: Sequence[Slice]
    slices: Scores

    @property
    def matches(self) -> list[Slice]:
        """Where the match of each lies."""
        return [self.train[int(row)] for row in self.scores.match]


@contextmanager
def prepared_folder(out: Path) -> Iterator[None]:
    """A folder for a report, before anything is computed for it, and for one process alone: what killed runs left in
    it goes.

    Raises:
        BusyError: If another process writes there.
        RecordError: If the log of an earlier report in it was changed: this one would continue it.
        OutputError: If it cannot be made.
    """
    make_private(out, _is_own)
    with held(out, "audit"):
        clear_unfinished(out, NAMES)
        read_log(out)
        yield


def write_report(
    out: Path,
    judged: Judged,
    context: Context,
    proofs: Sequence[Evidence],
    files: Mapping[str, FileAccount],
) -> str:
    """All files of a report, each readable by its owner alone.

    The report of an earlier audit is removed first and this one written last, so that a run which is killed leaves a
    folder without one. The log goes on.

    Args:
        out: As `prepared_folder` left it.
        judged: What was judged.
        context: What the report says beyond the scores.
        proofs: What flags are proved with, most certain first.
        files: What became of the files of each folder.

    Returns:
        The seal: hash of the last line of the log.

    Raises:
        RecordError: If the log was changed.
        OutputError: If something cannot be written.
    """
    report = build_report(judged.scores, context)
    rows = judged.scores, _places(judged.generated), _places(judged.train), context.keys
    contents = {
        TABLE: write_table(*rows),
        ACCOUNT: files_table(files).encode("utf-8", errors="surrogateescape"),
        CROISSANT: report_bytes(croissant(report)),
        PAGE: page_bytes(report),
        REPORT: report_bytes(report),
    }
    if (columns := write_parquet(*rows)) is not None:
        contents[PARQUET] = columns
    for name in (REPORT, PAGE, PARQUET, RELEASED, *OLD):
        (out / name).unlink(missing_ok=True)
    pictures = write_evidence(proofs, out / ANNEX, left_out=judged.slices.flagging.count - len(proofs))
    for name in contents.keys() - {REPORT}:
        replace_file(out / name, contents[name])
    digests = {f"{ANNEX}/{path.name}": sha256_of(path) for path in pictures}
    digests |= {name: sha256(data).hexdigest() for name, data in contents.items()}
    entries = append_entries(out, [("audit", _logged(report) | {"files": digests}), ("gate", report["gate"])])
    replace_file(out / REPORT, contents[REPORT])
    return entries[-1].sha256


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """The text of `report.json`, or of another dictionary."""
    return json.dumps(report, indent=2, allow_nan=False).encode() + b"\n"


def page_bytes(report: Mapping[str, Any]) -> bytes:
    """The text of `report.html`."""
    return render_page(report).encode("utf-8", errors="replace")


def _logged(report: Mapping[str, Any]) -> dict[str, Any]:
    memorized = report["memorized"]
    return {
        "verdict": report["verdict"]["verdict"],
        "samples": memorized["samples"],
        "flagged": memorized["flagged"],
        "data": {name: None if side is None else side["sha256"] for name, side in report["data"].items()},
        "fingerprints": report["fingerprints"],
        "version": report["versions"]["mi_callback"],
    }


def _places(slices: Sequence[Slice]) -> list[tuple[Path, int | None]]:
    return [(piece.path, piece.position) for piece in slices]


def _is_own(name: str) -> bool:
    return name.removesuffix(PART).removesuffix(NEXT) in (*NAMES, ANNEX)
