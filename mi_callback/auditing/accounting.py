"""Which files an audit read, left out and could not judge: as doubts, as numbers, and file by file."""

from collections.abc import Iterable, Mapping

from mi_callback.images.files import FileAccount, Reason
from mi_callback.reporting.tables import csv_text

UNJUDGED = 0.01
"""Share of the generated or of the training files, above which failed ones speak against clean.

What was not judged, or not searched, may be a copy. So few leave what is said of the share of copies as it is, which is
known to a few per cent."""

FILE_COLUMNS = ("side", "file", "state", "reason")
"""Columns of `files.csv`."""

UNLISTED = "in no manifest: its path tells whose it is"
"""Why a file that was read is worth a look."""


def doubts_of_files(sides: Mapping[str, FileAccount]) -> list[str]:
    """Why files that failed speak against calling the generated ones clean; empty where they do not.

    Training images with one value in every pixel do not count: there is nothing in them to copy.

    Args:
        sides: What became of the files of each side: `train`, `generated`, `held_out`, `control`.
    """
    said = []
    generated, train = (sides.get(side, FileAccount()) for side in ("generated", "train"))
    if (failed := len(generated.failed)) and generated.unjudged > UNJUDGED:
        whole = failed + len(generated.read)
        said.append(
            f"{failed} of {whole} generated files could not be judged ({_reasons(generated)}): they may be copies; "
            "mend or remove them"
        )
    blank = train.failures.get(Reason.BLANK, 0)
    failed, whole = len(train.failed) - blank, len(train.failed) + len(train.read) - blank
    if failed > UNJUDGED * whole:
        said.append(
            f"{failed} of {whole} training files could not be searched ({_reasons(train)}): copies of them are not "
            "found; mend them"
        )
    return said


def files_table(sides: Mapping[str, FileAccount]) -> str:
    """Every file with what became of it, as the text of a CSV file. Names are patient data."""
    return csv_text(FILE_COLUMNS, (row for side, files in sides.items() for row in _rows(side, files)))


def _rows(side: str, files: FileAccount) -> Iterable[tuple[str, str, str, str]]:
    unlisted = set(files.unlisted)
    for path in files.read:
        missing = files.gaps.get(path)
        said = [UNLISTED] * (path in unlisted) + [
            f"{missing} slices of its series seem to be missing behind it"
        ] * bool(missing)
        yield side, str(path), "read", "; ".join(said)
    for reason, paths in files.left_out.items():
        for path in paths:
            yield side, str(path), "left out", reason.value
    for failure in files.failed:
        yield side, str(failure.path), "failed", f"{failure.reason}: {failure.message}"


def _reasons(files: FileAccount) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in files.failures.items())
