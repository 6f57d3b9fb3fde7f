"""What became of every file of a folder: read, left out and why, failed and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mi_callback.errors import DataError
from mi_callback.types import Kind


class Reason(Kind):
    """Why a file failed, in words that name no file."""

    DAMAGED = "damaged, or not what its name says"
    NO_BYTES = "an empty file"
    NOT_FETCHED = "a pointer or link whose content was not fetched"
    NOT_ALLOWED = "no permission to read it"
    TOO_LARGE = "too large, or made to fill the memory"
    LIBRARY = "a library that is not installed"
    FORMAT = "a format that is not read"
    SHAPE = "no single slice or volume"
    COLOUR = "colour that was not asked for"
    VALUES = "values that are no real numbers"
    NOT_FINITE = "NaN or infinity"
    BLANK = "blank: one value in every pixel"


class LeftOut(Kind):
    """Why a file was not tried, in words that name no file."""

    SYSTEM = "hidden, or left behind by a system"
    BESIDE = "text or tables beside the images"
    EVIDENCE = "written by an earlier audit"
    UNKNOWN = "an ending that is no image's"
    OTHER_KIND = "no volume, where whole volumes are judged"
    NO_PIXELS = "DICOM without pixels, such as an index or a report"
    ROW = "named by a manifest, and not there"


class FileError(DataError):
    """A file that cannot be judged; `reason` says why without naming it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Failure(NamedTuple):
    """A file that failed, why, and the whole message."""

    path: Path
    reason: Reason
    message: str


@dataclass(frozen=True)
class FileAccount:
    """Every file of a folder.

    Attributes:
        read: Files that are judged; of a series also those that are among `empty_slices`.
        left_out: Files that were not tried, by reason.
        failed: Files that hold, or seem to hold, images, and that could not be judged.
        empty_slices: Slices of volumes with one value in every pixel, which are not judged: they show nothing.
        unlisted: Files that are judged and that no manifest names, where there is one.
        gaps: Files behind which slices of their series seem to be missing, and how many.
    """

    read: Sequence[Path] = ()
    left_out: Mapping[LeftOut, Sequence[Path]] = field(default_factory=dict)
    failed: Sequence[Failure] = ()
    empty_slices: int = 0
    unlisted: Sequence[Path] = ()
    gaps: Mapping[Path, int] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, int]:
        """Number of files that failed, by reason, the commonest first."""
        return dict(Counter(failure.reason.value for failure in self.failed).most_common())

    @property
    def unjudged(self) -> float:
        """Share of the files that failed among all that hold, or seem to hold, images."""
        return len(self.failed) / max(1, len(self.failed) + len(self.read))

    @property
    def counts(self) -> dict[str, int | dict[str, int]]:
        """Numbers alone: nothing in them names a file."""
        left_out = {reason.value: len(paths) for reason, paths in self.left_out.items()}
        return {
            "read": len(self.read),
            "left_out": left_out,
            "failed": self.failures,
            "empty_slices": self.empty_slices,
            "unlisted": len(self.unlisted),
            "missing_slices": sum(self.gaps.values()),
        }


def in_words(files: FileAccount) -> str:
    """What of a folder is not judged, in one sentence; empty where all of it is.

    Example:
        >>> in_words(FileAccount(failed=[Failure(Path("a.png"), Reason.BLANK, "needed …; a.png is constant.")]))
        '1 of 1 files cannot be judged (1 × blank: one value in every pixel), such as: needed …; a.png is constant.'
    """
    said = []
    if files.failed:
        kinds = ", ".join(f"{count} × {reason}" for reason, count in files.failures.items())
        several = len(files.failed) + len(files.read)
        said.append(
            f"{len(files.failed)} of {several} files cannot be judged ({kinds}), such as: {files.failed[0].message}"
        )
    if unknown := files.left_out.get(LeftOut.UNKNOWN, ()):
        endings = Counter("".join(path.suffixes[-2:]).lower() or "no ending" for path in unknown)
        kinds = ", ".join(f"{count} × {ending}" for ending, count in endings.most_common(5))
        said.append(f"{len(unknown)} files are not read ({kinds}): they are no part of what is judged.")
    if files.gaps:
        said.append(
            f"{sum(files.gaps.values())} slices seem to be missing within DICOM series, such as behind "
            f"{next(iter(files.gaps))}: neighbours lie further apart than others. What is not there is not judged."
        )
    return " ".join(said)
