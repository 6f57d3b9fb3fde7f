"""A log whose lines are chained by hashes: what was written once cannot be changed, moved or taken out unseen.

Every line is one JSON object in its canonical form. It holds the SHA-256 of the line before it and its own; so a change
to any byte breaks the chain from there on. Whoever can write the file can also write a new chain: note the hash of
the last line, the *seal*, in another place to tell that too.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_callback.errors import RecordError
from mi_callback.fingerprints import canonical_json
from mi_callback.private_files import replace_file

LOG_FILE = "log.jsonl"

FIRST = "0" * 64
"""What the first line has for the hash of the line before it."""


@dataclass(frozen=True)
class Entry:
    """One line of a log.

    Attributes:
        number: From 1.
        time: When it was written: UTC, as ISO 8601 has it.
        event: What happened: `audit`, `gate`, `review` or `filter`.
        content: What there is to know of it, as JSON holds it.
        previous: Hash of the line before it.
    """

    number: int
    time: str
    event: str
    content: Mapping[str, Any]
    previous: str

    @property
    def sha256(self) -> str:
        """Hash of everything in it."""
        return hashlib.sha256(canonical_json(self._plain).encode()).hexdigest()

    @property
    def line(self) -> bytes:
        """Its line in the file, with its end."""
        return canonical_json(self._plain | {"sha256": self.sha256}).encode() + b"\n"

    @property
    def _plain(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "time": self.time,
            "event": self.event,
            "content": dict(self.content),
            "previous": self.previous,
        }


def read_log(folder: Path) -> list[Entry]:
    """All entries of the log in a folder; none where there is no log.

    Raises:
        RecordError: If a byte of it was changed, or it is no log; the message names the line.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return []
    entries: list[Entry] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        previous = entries[-1].sha256 if entries else FIRST
        entries.append(_read_line(line, number, previous))
    return entries


def append_entries(folder: Path, events: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
    """Add what happened to the log of a folder, all of it or nothing.

    Args:
        folder: Where the log is, or is begun.
        events: Names of events and their contents.

    Returns:
        The whole log.

    Raises:
        RecordError: If the log that is there was changed.
        OutputError: If it cannot be written.
    """
    entries = read_log(folder)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for event, content in events:
        previous = entries[-1].sha256 if entries else FIRST
        entries.append(Entry(len(entries) + 1, now, event, content, previous))
    # Beside and replaced: a line that was cut by a kill would break the chain.
    replace_file(folder / LOG_FILE, b"".join(entry.line for entry in entries))
    return entries


def _read_line(line: bytes, number: int, previous: str) -> Entry:
    try:
        found = json.loads(line)
        entry = Entry(found["number"], found["time"], found["event"], found["content"], found["previous"])
        whole = entry.line == line and entry.number == number and entry.previous == previous
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise RecordError(
            f"needed an unbroken {LOG_FILE}; its line {number} is not what was written. Restore it from a copy, or "
            "write into another folder."
        )
    return entry
