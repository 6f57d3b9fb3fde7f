"""Several files of a report and its log are changed together, and a change that was cut short is finished later."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from mi_callback.errors import RecordError
from mi_callback.private_files import PART, replace_file, sha256_of
from mi_callback.reporting.record.lock import held
from mi_callback.reporting.record.log import append_entries, read_log
from mi_callback.reporting.record.verification import ANNEX, NEXT, files_dropped, files_recorded, verify_record


def change_record(folder: Path, event: str, content: Mapping[str, Any], files: Mapping[str, bytes | None]) -> str:
    """Add an event to the log and replace files by what follows from it.

    The new files are laid beside the old ones, then the log is written, then they take their places: after a kill
    `finish_change` knows from the log which of the two is meant.

    Args:
        folder: Of the report.
        event: What happened.
        content: What there is to know of it.
        files: Contents by name; None removes a file.

    Returns:
        The seal: hash of the last line of the log.

    Raises:
        RecordError: If the log was changed.
        OutputError: If something cannot be written.
    """
    for name, data in files.items():
        if data is not None:
            replace_file(folder / (name + NEXT), data)
    digests = {name: None if data is None else sha256(data).hexdigest() for name, data in files.items()}
    entries = append_entries(folder, [(event, {**content, "files": digests})])
    _settle(folder)
    return entries[-1].sha256


@contextmanager
def opened_record(folder: Path, what: str) -> Iterator[None]:
    """A report to be changed by one process alone: a change that was cut short is finished first.

    Args:
        folder: Of the report.
        what: What is done, for others who find it held: `review`.

    Raises:
        RecordError: If there is no report, or a file of it is not as it was written.
        BusyError: If another process writes there.
    """
    with held(folder, what):
        if folder.is_dir():
            _settle(folder)
        found = verify_record(folder)
        if not found.stands:
            raise RecordError(
                f"needed a report as it was written; {'; '.join(found.problems)}. Restore it from a copy, or run the "
                "audit again."
            )
        yield


def clear_unfinished(folder: Path, names: Collection[str]) -> None:
    """Remove what runs that were killed left beside the files of these names and in the annex: it is patient data.

    Files of others stay, whatever they are called: the folder may be shared.
    """
    for name in names:
        for unfinished in (PART, NEXT, NEXT + PART):
            (folder / (name + unfinished)).unlink(missing_ok=True)
    for left in (folder / ANNEX).glob(f"*.png{PART}"):
        left.unlink()


def _settle(folder: Path) -> None:
    """New files that the log knows take their places; others are of a change that never was."""
    recorded = files_recorded(read_log(folder))
    for waiting in sorted(folder.glob(f"*{NEXT}"), reverse=True):
        name = waiting.name.removesuffix(NEXT)
        if recorded.get(name) == sha256_of(waiting):
            waiting.replace(folder / name)
        else:
            waiting.unlink()
    for name in files_dropped(read_log(folder)):
        (folder / name).unlink(missing_ok=True)
