"""Is everything in a report as it was written?"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mi_callback.errors import RecordError
from mi_callback.private_files import sha256_of
from mi_callback.reporting.record.log import LOG_FILE, Entry, read_log

ANNEX = "evidence"
"""Folder of pictures that may be kept apart from the rest of a report."""

NEXT = ".next"
"""Ending of a file that waits to take the place of the one before it."""


@dataclass(frozen=True)
class Verification:
    """What was compared, and what differs.

    Attributes:
        problems: A sentence for each file that is not as it was written; empty where all are.
        notes: What is not there and need not be.
        entries: The log, as far as it is unbroken.
        checked: Files whose content is as it was written.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    checked: int = 0

    @property
    def stands(self) -> bool:
        """Whether nothing was changed."""
        return not self.problems

    @property
    def seal(self) -> str | None:
        """Hash of the last line of the log: it changes with everything."""
        return self.entries[-1].sha256 if self.entries else None


def verify_record(folder: str | Path, seal: str | None = None) -> Verification:
    """Compare every file of a report with what its log says of it.

    Args:
        folder: What `out` was in an audit.
        seal: Hash of a line of the log that was noted in another place: then a log that was written anew is found, too.

    Raises:
        RecordError: If there is no report.
    """
    folder = Path(folder)
    if not (folder / LOG_FILE).is_file():
        raise RecordError(f"needed the folder of a report, out=DIR of mi-audit; {folder} holds no {LOG_FILE}.")
    try:
        entries = read_log(folder)
    except RecordError as error:
        return Verification([f"{LOG_FILE}: {error}"])
    problems, notes, checked = [], [], 0
    if seal is not None and seal not in {entry.sha256 for entry in entries}:
        problems.append(
            f"{LOG_FILE}: no line of it has the seal {seal}: it was written anew, or is that of another one"
        )
    recorded = files_recorded(entries)
    if not recorded:
        problems.append(f"{LOG_FILE}: holds no audit")
    annexed = (folder / ANNEX).is_dir()
    if not annexed and any(_in_annex(name) for name in recorded):
        notes.append(f"{ANNEX}/ is not here, the annex with pictures; what it held is not compared")
    for name, digest in recorded.items():
        if _in_annex(name) and not annexed:
            continue
        difference = _difference(folder / name, digest)
        problems += [f"{name}: {difference}"] if difference else []
        checked += not difference
    for name in _not_recorded(folder, recorded):
        problems.append(f"{name}: is not of this report: the log does not know it")
    return Verification(problems, notes, entries, checked)


def files_recorded(entries: Iterable[Entry]) -> dict[str, str]:
    """Hash of every file that a report consists of: an audit begins anew, what follows it adds and replaces."""
    return {name: digest for name, digest in _files(entries).items() if digest is not None}


def files_dropped(entries: Iterable[Entry]) -> list[str]:
    """Names of files that were taken out of a report."""
    return [name for name, digest in _files(entries).items() if digest is None]


def _files(entries: Iterable[Entry]) -> dict[str, str | None]:
    """Name and hash of every file; None where it was taken out."""
    recorded: dict[str, str | None] = {}
    for entry in entries:
        if entry.event == "audit":
            recorded = {}
        recorded |= entry.content.get("files", {})
    return recorded


def _difference(path: Path, digest: str) -> str | None:
    waiting = path.with_name(path.name + NEXT)
    if waiting.is_file() and sha256_of(waiting) == digest:
        return "was about to be replaced when writing was interrupted; the next review or filter finishes that"
    if not path.is_file():
        return "is missing; was writing it interrupted? Then run the audit again"
    return None if sha256_of(path) == digest else "was changed"


def _not_recorded(folder: Path, recorded: dict[str, str]) -> list[str]:
    found = [f"{ANNEX}/{path.name}" for path in (folder / ANNEX).glob("*")]
    return sorted(name for name in found if name not in recorded)


def _in_annex(name: str) -> bool:
    return name.startswith(f"{ANNEX}/")
