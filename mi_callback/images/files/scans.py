"""Files → scans: single pictures, volumes of one file, DICOM series of many; each checked before anything is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mi_callback.images.files.accounts import Failure, FileError, LeftOut, Reason
from mi_callback.images.files.archives import local_file
from mi_callback.images.files.formats.dicom import Header, read_header
from mi_callback.images.files.formats.series import Series, gather_series
from mi_callback.images.files.formats.stores import read_patient
from mi_callback.images.files.kinds import FileKind
from mi_callback.images.files.telling import told_by_name
from mi_callback.images.files.walking import Listing, natural_key


class Slice(NamedTuple):
    """Where one slice lies: a file, and for volumes the position along the slicing axis, of DICOM the frame.

    Attributes:
        path: The file; of a DICOM series that is judged whole, the first one.
        subject: Who is shown; None where it is unknown.
        position: Of a slice within its file; None where that holds one, or is judged whole.
        volume: A path that stands for the volume that it is a slice of; None where files do not say.
    """

    path: Path
    subject: str | None
    position: int | None
    volume: Path | None = None


@dataclass(frozen=True)
class Scan:
    """One picture or one volume.

    Attributes:
        path: Its file; a path that stands for its files, if there are several.
        kind: Of its files.
        series: For DICOM, its images in order.
    """

    path: Path
    kind: FileKind
    series: Series | None = None

    @property
    def files(self) -> list[Path]:
        """The files that hold it."""
        return [self.path] if self.series is None else self.series.files


@dataclass
class Gathered:
    """Scans of a folder in their natural order, and the PatientID of each file that has one."""

    scans: list[Scan]
    patients: dict[Path, str] = field(default_factory=dict)


@dataclass
class Checked:
    """What of a scan can be judged, and what not.

    Attributes:
        kept: Slices with content.
        failed: Why a file cannot be judged, by file.
        empty: Number of slices without content beside others that have some.
    """

    kept: list[Slice] = field(default_factory=list)
    failed: dict[Path, Failure] = field(default_factory=dict)
    empty: int = 0


def gather_scans(listing: Listing) -> Gathered:
    """Files of a listing as scans; those that turn out to hold no images are added to what is left out or failed."""
    gathered = Gathered([Scan(path, kind) for path, kind in listing.found.items() if kind is not FileKind.DICOM])
    headers = []
    for path, kind in listing.found.items():
        if kind is FileKind.DICOM and (header := _header(path, listing)) is not None:
            headers.append(header)
            if header.patient is not None:
                gathered.patients[path] = header.patient
        elif kind in (FileKind.HDF5, FileKind.ZARR) and (patient := _patient(path)) is not None:
            gathered.patients[path] = patient
    gathered.scans += [Scan(series.name, FileKind.DICOM, series) for series in gather_series(headers)]
    gathered.scans.sort(key=lambda scan: natural_key(scan.path))
    return gathered


def check_scan(pieces: Sequence[Slice], read: Callable[[Slice], Tensor], fit: Callable[[Tensor], Tensor]) -> Checked:
    """Read every slice of a scan, and keep what has content; of a file that fails no slice is kept.

    Args:
        pieces: The slices.
        read: Gives the image of each.
        fit: Brings an image to the size in which it is judged: little content may vanish by it.
    """
    checked = Checked()
    blank = []
    for piece in pieces:
        if piece.path in checked.failed:
            continue
        try:
            image = read(piece)
            _check_content(image, piece.path)
            _check_content(fit(image), piece.path)
            checked.kept.append(piece)
        except FileError as error:
            failure = Failure(piece.path, error.reason, str(error))
            if error.reason is Reason.BLANK:
                blank.append(failure)
            else:
                checked.failed.setdefault(piece.path, failure)
    checked.kept = [piece for piece in checked.kept if piece.path not in checked.failed]
    if checked.kept:
        checked.empty = len(blank)
    else:
        checked.failed = {failure.path: failure for failure in blank} | checked.failed
    return checked


def _patient(path: Path) -> str | None:
    """Who is shown, where a store of arrays says it."""
    try:
        with local_file(path) as local:
            return read_patient(local)
    except FileError:  # of its archive: whoever reads it says it
        return None


def _header(path: Path, listing: Listing) -> Header | None:
    """What a DICOM file says of itself; None where it holds no images, which is listed."""
    try:
        with told_by_name(path), local_file(path) as local:
            header = read_header(local, path)
    except FileError as error:
        listing.failed.append(Failure(path, error.reason, str(error)))
        return None
    if header.frames:
        return header
    listing.left_out[LeftOut.NO_PIXELS].append(path)
    if header.listed:
        _check_listed(path, header.listed, listing)
    return None


def _check_listed(index: Path, names: Sequence[str], listing: Listing) -> None:
    """List what an index names and what is not there; discs spell names in capitals, copies of them often do not."""
    known = {str(path).casefold() for path in listing.found}
    for name in names:
        path = index.parent / name
        if str(path).casefold() not in known and not path.exists():
            message = f"needed the file {path} that {index} names; it is not there."
            listing.failed.append(Failure(path, Reason.NOT_FETCHED, message))


def _check_content(image: Tensor, path: Path) -> None:
    least, most = torch.aminmax(image)
    if not bool((least.isfinite() & most.isfinite()).item()):
        raise FileError(Reason.NOT_FINITE, f"needed finite pixels; {path} holds NaN or infinity.")
    if least == most:
        raise FileError(Reason.BLANK, f"needed an image with content; {path} is constant (one value in every pixel).")
