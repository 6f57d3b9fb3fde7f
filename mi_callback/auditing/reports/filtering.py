"""The samples of an audit without those that are flagged, and how many copies may be left among them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_callback.arguments import probability, switch
from mi_callback.auditing.reports.writing import PAGE, RELEASED, REPORT, TABLE, page_bytes, report_bytes
from mi_callback.errors import CalibrationError
from mi_callback.reporting.document import Row, read_table
from mi_callback.reporting.record import Decision, change_record, opened_record, read_log, reviews_of
from mi_callback.reporting.tables import csv_text
from mi_callback.statistics.conformal import at_most
from mi_callback.statistics.rates.remainder import Remainder, certify_remainder


@dataclass(frozen=True)
class Filtered:
    """What is left.

    Attributes:
        kept: Rows that may be released.
        removed: Number of samples taken out.
        statement: How many copies may be left, in a sentence, or why nothing can be said.
        path: The list of what is left.
        seal: Hash of the last line of the log.
    """

    kept: Sequence[Row]
    removed: int
    statement: str
    path: Path
    seal: str


def filter_samples(out: str | Path, keep_false_alarms: bool = False, confidence: float = 0.95) -> Filtered:
    """Write the list of samples without flagged ones and their near-duplicates, with a certificate of what is left.

    Taken out is every sample with p ≤ α, also where flags are chosen at a false discovery rate: for this level the
    power was measured. Near-duplicates of such a sample go with it.

    Args:
        out: Folder of the report; the list is `released.csv` in it.
        keep_false_alarms: Keep flagged samples that a reviewer decided are false alarms.
        confidence: Of the certificate.

    Raises:
        RecordError: If there is no report, or it was changed.
        OptionError: If an option is of the wrong kind.
        BusyError: If another process is writing into the folder.
    """
    folder = Path(out)
    switch("keep_false_alarms", keep_false_alarms)
    probability("confidence", confidence)
    with opened_record(folder, "filter"):
        return _filter(folder, keep_false_alarms, confidence)


def _filter(folder: Path, keep_false_alarms: bool, confidence: float) -> Filtered:
    report, rows = json.loads((folder / REPORT).read_bytes()), read_table(folder / TABLE)
    dismissed = _dismissed(folder) if keep_false_alarms else set()
    suspect = _suspects(rows, report["numbers"]["alpha"])
    copied = {row.group for row, suspected in zip(rows, suspect, strict=True) if suspected}
    taken = {row.group for row, suspected in zip(rows, suspect, strict=True) if suspected and row.key not in dismissed}
    kept = [row for row in rows if row.group not in taken]
    found = _remainder(report, rows, copied, confidence)
    by_decision = sum(row.group in copied for row in kept)
    filtered = _in_report(rows, kept, copied, by_decision, found, confidence)
    report["filtered"] = filtered
    files = {RELEASED: _list_of(kept), PAGE: page_bytes(report), REPORT: report_bytes(report)}
    seal = change_record(folder, "filter", filtered, files)
    return Filtered(kept, len(rows) - len(kept), filtered["statement"], folder / RELEASED, seal)


def _suspects(rows: Sequence[Row], alpha: float) -> list[bool]:
    beyond = at_most(torch.tensor([row.p_value for row in rows], dtype=torch.float64), alpha).tolist()
    return [row.flag or low for row, low in zip(rows, beyond, strict=True)]


def _dismissed(folder: Path) -> set[str]:
    """Keys of flags that are false alarms by decision."""
    reviews = reviews_of(read_log(folder))
    return {key for key, one in reviews.items() if one.decision is Decision.FALSE_ALARM}


def _remainder(report: Mapping[str, Any], rows: Sequence[Row], copied: set[int], confidence: float) -> Remainder | str:
    """How many copies were missed, or why no limit follows."""
    power = report["power"]
    if report["certificate"] is None:
        return "p-values against this null do not mean what they say, or there are too few held-out people"
    if power is None:
        return "the power was not measured, so nobody knows how many copies were missed. Audit with power=16"
    try:
        distinct = len({row.group for row in rows})
        return certify_remainder(len(copied), distinct, (power["found"], power["images"]), confidence)
    except CalibrationError as error:
        return str(error).rstrip(".")


def _in_report(
    rows: Sequence[Row],
    kept: Sequence[Row],
    copied: set[int],
    by_decision: int,
    found: Remainder | str,
    confidence: float,
) -> dict[str, Any]:
    """The part `filtered` of a report."""
    at_most_copies = None
    if isinstance(found, Remainder):
        # A missed copy may stand for all its near-duplicates: count those of the largest groups.
        sizes = Counter(row.group for row in kept if row.group not in copied)
        at_most_copies = sum(size for _, size in sizes.most_common(found.missed_at_most))
    left = len(kept) - by_decision
    known = at_most_copies is not None and left > 0
    return {
        "samples": len(rows),
        "removed": len(rows) - len(kept),
        "kept": len(kept),
        "kept_by_decision": by_decision,
        "missed_at_most": at_most_copies,
        "share_at_most": at_most_copies / left if known else None,  # type: ignore[operator]
        "confidence": confidence,
        "statement": _statement(found, at_most_copies, left, by_decision),
    }


def _statement(found: Remainder | str, copies: int | None, left: int, by_decision: int) -> str:
    if left == 0 and by_decision == 0:
        return "Nothing is left: every sample was taken out."
    if isinstance(found, str) or copies is None:
        return f"No certificate can be given of what is left: {found}."
    beside = (
        f" Beside them {by_decision} flagged samples are kept by decision of a reviewer: the certificate says nothing "
        "of them."
        if by_decision
        else ""
    )
    if copies >= left:
        return f"No certificate can be given of what is left: any of it may be a copy that was missed.{beside}"
    return (
        f"At most {copies} of the {left} samples that were not flagged are copies ({100 * found.confidence:g} % "
        f"confidence), given that copies of the planted kinds are found, independently, with at least "
        f"{100 * found.power_lower:.0f} % ({found.power.found} of {found.power.planted} were). The flags are not proof "
        f"that nothing else is copied, and the certificate holds for one filtering of one batch: drawing and filtering "
        f"again until it looks good voids it.{beside}"
    )


def _list_of(kept: Sequence[Row]) -> bytes:
    text = csv_text(("generated", "slice"), ((row.generated, row.slice) for row in kept))
    return text.encode("utf-8", errors="surrogateescape")
