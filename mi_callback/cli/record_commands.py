"""`mi-audit verify`, `review` and `filter`: what is done with the folder of a report."""

from typing import Any

from mi_callback.auditing.reports.filtering import filter_samples
from mi_callback.auditing.reports.reviewing import review
from mi_callback.cli.command import ERROR, Command
from mi_callback.cli.options import options_of
from mi_callback.errors import OptionError
from mi_callback.reporting.record import Verification, verify_record

VERIFY_USAGE = """\
mi-audit verify DIR [seal=HASH]

Compares every file of a report with its log. Exit code 0: nothing was changed, 1: something was; it says which file.
Whoever can write all files can also write a new log: note the seal that an audit prints in another place and give it
here."""

REVIEW_USAGE = """\
mi-audit review DIR sample=17 decision=false_alarm by="A. Name" [note="…"]

Marks a flag as confirmed or as a false alarm. The decision goes into the log, the report shows it, and it is there
again when the same images are audited anew. Exit code 0, or 1: an error."""

FILTER_USAGE = """\
mi-audit filter DIR [keep_false_alarms=true]

Writes released.csv: the samples without flagged ones and their near-duplicates. It says how many copies may have been
missed, or that nobody can tell. Exit code 0, or 1: an error."""


def _verify(options: dict[str, Any], _: dict[str, Any]) -> int:
    _check(options, "verify", ("folder",))
    found = verify_record(**options)
    print(*_lines(found), sep="\n")
    return 0 if found.stands else ERROR


def _lines(found: Verification) -> list[str]:
    lines = [*(f"changed: {problem}" for problem in found.problems), *found.notes]
    if found.stands:
        last = found.entries[-1].time
        lines.append(f"nothing was changed: {found.checked} files, and {len(found.entries)} lines of log until {last}")
        lines.append(f"seal: {found.seal}")
    return lines


def _review(options: dict[str, Any], _: dict[str, Any]) -> int:
    _check(options, "review", ("out", "sample", "decision", "by"))
    made = review(**options)
    print(f"sample {made.row}: {made.review.decision}, by {made.review.by}; {made.open} flags are not decided")
    print(f"seal: {made.seal}")
    return 0


def _filter(options: dict[str, Any], _: dict[str, Any]) -> int:
    _check(options, "filter", ("out",))
    found = filter_samples(**options)
    print(f"{len(found.kept)} samples are left, {found.removed} were taken out: {found.path}")
    print(found.statement, f"seal: {found.seal}", sep="\n")
    return 0


def _check(options: dict[str, Any], name: str, needed: tuple[str, ...]) -> None:
    others = needed[1:]
    missing = [key for key in needed if options[key] is None]
    if missing:
        words = " ".join(["DIR", *(f"{key}=…" for key in others)])
        raise OptionError(f"needed mi-audit {name} {words}; without {' and '.join(missing)} it came.")


VERIFY = Command("mi-audit verify", VERIFY_USAGE, options_of(verify_record), ("folder", "seal"), _verify, "folder")
REVIEW = Command("mi-audit review", REVIEW_USAGE, options_of(review), ("out", "sample", "by", "note"), _review, "out")
FILTER = Command("mi-audit filter", FILTER_USAGE, options_of(filter_samples), ("out",), _filter, "out")
