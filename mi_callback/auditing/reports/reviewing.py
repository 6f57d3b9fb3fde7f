"""A person decides on a flag: the decision goes into the log, and the report shows it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_callback.auditing.reports.writing import PAGE, RELEASED, REPORT, TABLE, page_bytes, report_bytes
from mi_callback.errors import DataError, OptionError, choice
from mi_callback.reporting.document import Row, read_table
from mi_callback.reporting.document.content import reviews_in_report
from mi_callback.reporting.record import Decision, Review, change_record, opened_record, read_log, reviews_of


@dataclass(frozen=True)
class Reviewed:
    """What was decided.

    Attributes:
        review: The decision.
        row: Of the sample, from 0.
        open: Flags that nobody has decided on.
        seal: Hash of the last line of the log.
    """

    review: Review
    row: int
    open: int
    seal: str


def review(out: str | Path, sample: int | str, decision: str, by: str, note: str = "") -> Reviewed:
    """Mark a flag as confirmed or as a false alarm, by whom and when.

    It changes no statistic. The decision belongs to the contents of the sample and its match: it is there again when
    the same folder is audited anew, wherever the sample then stands.

    Args:
        out: Folder of the report.
        sample: The number of the sample as its evidence has it (`evidence_0017.png` is 17), counted from 0 in
            `scores.csv`; or its key there.
        decision: `confirmed`, `false_alarm`, or `open` to take a decision back.
        by: Who decides.
        note: Why; it stands in the log alone.

    Raises:
        RecordError: If there is no report, or it was changed.
        DataError: If there is no such sample, or it is not flagged.
        OptionError: If the decision is none of these, or nobody decides.
        BusyError: If another process is writing into the folder.
    """
    folder = Path(out)
    decided = choice("decision", decision, Decision, OptionError)
    if not isinstance(by, str) or not by.strip():
        raise OptionError(f"needed the name of who decides, by=NAME; {by!r} came.")
    with opened_record(folder, "review"):
        return _decide(folder, sample, decided, by.strip(), str(note))


def _decide(folder: Path, sample: int | str, decided: Decision, by: str, note: str) -> Reviewed:
    rows = read_table(folder / TABLE)
    place = _place_of(rows, sample)
    report = json.loads((folder / REPORT).read_bytes())
    made = Review(rows[place].key, decided, by, datetime.now(UTC).isoformat(timespec="seconds"), note)
    known = reviews_of(read_log(folder)) | {made.key: made}
    flagged = [row.key for row in rows if row.flag]
    standing = {key: one for key, one in known.items() if one.decision is not Decision.OPEN}
    report["reviews"] = reviews_in_report(flagged, standing)
    files: dict[str, bytes | None] = {}
    if report["filtered"] is not None and report["filtered"]["kept_by_decision"]:
        report["filtered"], files[RELEASED] = None, None  # that list was made with other decisions
    files |= {PAGE: page_bytes(report), REPORT: report_bytes(report)}
    content = {"key": made.key, "decision": str(decided), "by": made.by, "note": made.note}
    return Reviewed(made, place, report["reviews"]["open"], change_record(folder, "review", content, files))


def _place_of(rows: Sequence[Row], sample: Any) -> int:
    """Position of a flagged sample, by its number or its key."""
    text = str(sample)
    places = [place for place, row in enumerate(rows) if row.key == text]
    if not places and text.isdecimal() and int(text) < len(rows):
        places = [int(text)]
    if not places:
        raise DataError(f"needed the number of a sample, 0 to {len(rows) - 1}, or its key in {TABLE}; {text!r} came.")
    if not rows[places[0]].flag:
        raise DataError(f"needed a sample that is flagged; {text!r} is not, and there is nothing to decide on.")
    return places[0]
