"""The end of a run: a table for people, a report for later, names of matches in a file that stays here."""

import io
import json
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_callback.errors import MemorizationError, OutputError
from mi_callback.images.files.accounts import FileError
from mi_callback.lightning.loggers.curves import draw_curves
from mi_callback.lightning.loggers.looks import Look, worst
from mi_callback.lightning.loggers.tables import ROWS
from mi_callback.private_files import PART, make_private, replace_file, replaced
from mi_callback.reporting.tables import csv_text, text_table
from mi_callback.scores import Scores
from mi_callback.version import __version__

REPORT, CURVES, MATCHES, ERRORS = "report.json", "curves.png", "matches.csv", "errors.txt"
"""Aggregates; curves; flagged samples with the people and files that they match; errors in full. The last two hold
names of patients and files, and never leave this machine."""

OWN = (REPORT, CURVES, MATCHES, ERRORS)

HEADER = ("epoch", "verdict", "flagged", "expected", "MI median", "MI 95 %", "most copied")
SHOWN = 20
"""Validations in the table at most: the worst, and the last ones."""


class Report:
    """A folder beside the logs that its owner alone can read; nothing is written where there is none.

    What an earlier run left there is removed first: its matches would read as those of this run.

    Args:
        folder: Made when first something is written; None for none.

    Raises:
        OutputError: If what an earlier run left there cannot be removed.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._rows: list[list[Any]] = []
        if folder is not None:
            _remove_earlier(folder)

    def note(self, epoch: int, scores: Scores, sources: Sequence[str] | None) -> None:
        """Keep who was copied at this validation, worst first."""
        flagged = [i for i in scores.closest(len(scores)) if scores.flagged[i]][:ROWS]
        for i in flagged:
            match = int(scores.match[i])
            file = None if sources is None else sources[match]
            mi, p = float(scores.mi[i]), float(scores.p_value[i])
            self._rows.append([epoch, i, mi, p, match, scores.match_subject[i], file])
        if flagged and self.folder is not None:
            columns = ["epoch", "sample", "mi", "p_value", "match", "subject", "file"]
            self._write(MATCHES, csv_text(columns, self._rows).encode())

    def note_error(self, epoch: int, error: BaseException) -> Path | None:
        """Keep an error in full; where, or None without a folder."""
        if self.folder is None:
            return None
        path, text = self.folder / ERRORS, "".join(traceback.format_exception(error))
        earlier = path.read_text() if path.is_file() else ""
        self._write(ERRORS, f"{earlier}epoch {epoch}\n{text}\n".encode())
        return path

    def write(self, looks: Sequence[Look], sampled: str) -> list[Path]:
        """Aggregates of all validations, as JSON and as curves: the files, none of which names a person or a file."""
        if self.folder is None or not looks:
            return []
        content = {"mi_callback": __version__, "sampled": sampled, "validations": [asdict(look) for look in looks]}
        self._write(REPORT, json.dumps(content, indent=1).encode())
        figure = draw_curves(looks)
        with replaced(self.folder / CURVES) as unfinished:
            figure.savefig(unfinished, format="png")
        return [self.folder / REPORT, self.folder / CURVES]

    def _write(self, name: str, content: bytes) -> None:
        assert self.folder is not None
        make_private(self.folder, lambda own: own in OWN)
        replace_file(self.folder / name, content)


def report_folder(asked: Any, trainer: Any, name: str = "memorization") -> Path | None:
    """Where the report goes: where the user says, else in a folder of this name beside the logs; nowhere without a
    logger.
    """
    if trainer.fast_dev_run:
        return None
    if asked is not None:
        return Path(asked)
    if not trainer.loggers:
        return None
    first = trainer.loggers[0]
    # Not trainer.log_dir, which all ranks must ask for together.
    if any(kind.__name__ in ("CSVLogger", "TensorBoardLogger") for kind in type(first).__mro__):
        return Path(first.log_dir, name)
    # Other loggers tell the folder of all their runs.
    return None if first.save_dir is None else Path(first.save_dir, name, str(first.version))


def table(looks: Sequence[Look]) -> str:
    """Verdicts by epoch; in a frame where `rich` is installed, else in plain text.

    Args:
        looks: All validations; of more than `SHOWN` the worst one and the last ones are shown.
    """
    shown = list(looks)
    if len(shown) > SHOWN:
        most = worst(looks)
        shown = [look for look in looks[:-SHOWN] if look is most] + shown[-SHOWN:]
    rows = [_row(look) for look in shown]
    title = f"memorization by epoch{'' if len(shown) == len(looks) else f', {len(shown)} of {len(looks)} validations'}"
    try:
        import rich  # noqa: F401
    except ImportError:
        return f"{title}\n{text_table(HEADER, rows, (6, 14, 12, 9, 9, 9, 40), right=(0, 2, 3, 4, 5))}"
    return _framed(title, rows)


def in_words(error: Exception, private: bool, path: Path | None = None) -> str:
    """An error in a line; where what is printed may leave this machine, without the text of errors that are
    not ours, or of files.

    Args:
        error: What was raised.
        private: Whether names must not be printed.
        path: Where the error is in full.
    """
    ours = isinstance(error, MemorizationError) and not isinstance(error, FileError)
    foreign = not ours or error.__cause__ is not None
    if not (private and foreign):
        return f"{type(error).__name__}: {error}"
    cause = "" if error.__cause__ is None else f" ({type(error.__cause__).__name__})"
    where = "is not shown, for loggers send what is printed" if path is None else f"is in {ERRORS}, beside the logs"
    why = f": {error.reason.value}" if isinstance(error, FileError) else ""
    return f"{type(error).__name__}{cause}{why}; the text, which may name files, {where}"


def _remove_earlier(folder: Path) -> None:
    try:
        for name in OWN:
            for left in (folder / name, folder / (name + PART)):
                left.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"needed to remove what an earlier run left in {folder}; {error.strerror}. Choose another folder."
        ) from error


def _row(look: Look) -> list[str]:
    summary = look.summary
    if not look.scored:
        return [str(look.epoch), look.verdict, "", "", "", "", ""]
    counts = [f"{summary[key]:{form}}" if key in summary else "–" for key, form in (("flagged", ".0f"),
              ("flagged_expected", ".1f"), ("mi_median", ".2f"), ("mi_p95", ".2f"))]  # fmt: skip
    return [str(look.epoch), look.verdict, *counts, _copied(look.copied)]


def _copied(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    most = ", ".join(map(str, counts[:5])) + (", …" if len(counts) > 5 else "")
    return f"{len(counts)} {'person' if len(counts) == 1 else 'people'}: {most}"


def _framed(title: str, rows: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    framed = Table(title=title, title_justify="left")
    for name in HEADER:
        framed.add_column(name, justify="left" if name in ("verdict", "most copied") else "right")
    for row in rows:
        framed.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=100).print(framed)
    return text.getvalue().rstrip()
