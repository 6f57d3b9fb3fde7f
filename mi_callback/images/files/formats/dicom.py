"""DICOM files → frames in the units that they stand for, and what orders them."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.archives import read_head
from mi_callback.images.files.formats.limits import check_claim, within
from mi_callback.images.files.telling import needs

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
"""Elements of which one holds the pixels."""

MOST_BYTES = 1 << 31
"""Bytes to which the elements of a deflated file may expand."""

Voi = tuple[float, float] | Literal["file"] | None
"""Values of interest: center and width of a window, `file` for what each file says, None for all values."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
_HEAD, _META = 1024, 144
"""Bytes in which a file names its transfer syntax, and those before what its first element says that follows."""

HEADER = ("SOPClassUID", "PatientID", "SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient", "Rows",
          "Columns", "InstanceNumber", "NumberOfFrames", "SharedFunctionalGroupsSequence",
          "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence", "PixelSpacing")  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself.

    Attributes:
        path: The file.
        frames: Number of its images; 0 where it holds none.
        patient: PatientID.
        series: SeriesInstanceUID; None where it says none.
        shape: Rows and columns.
        number: InstanceNumber.
        orientations: Of each frame, the directions of its rows and columns, six numbers in LPS; None where unknown.
        positions: Of each frame, where its first pixel lies, three numbers in LPS; None where unknown.
        listed: Files that an index names, below its folder.
    """

    path: Path
    frames: int
    patient: str | None
    series: str | None
    shape: tuple[int, int]
    number: int
    orientations: tuple[tuple[float, ...] | None, ...]
    positions: tuple[tuple[float, ...] | None, ...]
    listed: tuple[str, ...] = ()


def read_header(path: Path, name: Path) -> Header:
    """What a DICOM file says of itself, without its pixels.

    Args:
        path: Where it is read.
        name: As what it is known.

    Raises:
        FileError: If it holds no DICOM elements.
    """
    scan = _read(path, stop_before_pixels=True, specific_tags=list(HEADER))
    rows, columns = int(scan.get("Rows") or 0), int(scan.get("Columns") or 0)
    if not rows * columns and not _is_without_pixels(scan):
        raise FileError(Reason.DAMAGED, f"needed a readable image; {name} is damaged or not what its name says.")
    frames = max(1, int(scan.get("NumberOfFrames") or 1)) if rows and columns else 0
    check_claim(path, (frames, rows, columns), 1)
    series, patient = scan.get("SeriesInstanceUID"), scan.get("PatientID")
    return Header(
        path=name,
        frames=frames,
        patient=None if patient is None else str(patient),
        series=str(series) if series else None,
        shape=(rows, columns),
        number=int(scan.get("InstanceNumber") or 0),
        orientations=_of_frames(scan, frames, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
        positions=_of_frames(scan, frames, "PlanePositionSequence", "ImagePositionPatient", 3),
        listed=tuple(_listed(scan)),
    )


def read_frames(path: Path, voi: Voi = None) -> np.ndarray:
    """All frames of a DICOM file, `(n, h, w)` or in colour `(n, h, w, 3)`, bright where they are shown bright.

    Values are those that the stored ones stand for: through the modality LUT or the rescale slope and intercept, of the
    file or of each frame, and through the palette.

    Args:
        path: The file.
        voi: Values of interest, of grey images. When None the first VOI LUT is applied, without which such values are
            not what anybody looks at, and no window, which would cut values off. Center and width cut off what lies
            outside, instead of a LUT. `file`: the LUT of the file, or the first window of it or of each frame.

    Raises:
        FileError: If it holds no pixels, a decoder of its compression is not installed, or it is larger than any image.
    """
    scan = _read(path)
    if "Rows" not in scan or not any(name in scan for name in PIXELS):
        raise FileError(Reason.DAMAGED, f"needed a readable image; {path} is damaged or cut: it holds no pixels.")
    frames = max(1, int(scan.get("NumberOfFrames") or 1))
    check_claim(path, (frames, int(scan.Rows), int(scan.Columns)), int(scan.get("BitsAllocated") or 8) // 8 or 1)
    _check_decoder(scan, path)
    pixels = scan.pixel_array
    pixels = pixels if frames > 1 else pixels[None]
    return _as_shown(pixels, scan, voi)


def _as_shown(pixels: np.ndarray, scan: Any, voi: Voi) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    if scan.get("PhotometricInterpretation") == "PALETTE COLOR":
        return apply_color_lut(pixels, scan)
    if pixels.ndim == 4:
        return pixels
    shown = _of_interest(_in_units(pixels, scan), scan, voi)
    if scan.get("PhotometricInterpretation") == "MONOCHROME1":
        # Bright is stored as low. The same number is taken from in each file of a series, and none wraps around.
        level = -1 if scan.get("PixelRepresentation") else 2 ** int(scan.BitsStored) - 1
        shown = np.float32(level) - shown.astype(np.float32)
    return shown


def _of_interest(pixels: np.ndarray, scan: Any, voi: Voi) -> np.ndarray:
    from pydicom.pixels import apply_voi

    if isinstance(voi, tuple):
        return within(pixels, voi)
    if "VOILUTSequence" in scan:
        return apply_voi(np.rint(pixels).astype(np.int32), scan)
    if voi is None:
        return pixels
    return np.stack([_windowed(frame, _group(scan, k, "FrameVOILUTSequence") or scan, scan)
                     for k, frame in enumerate(pixels)])  # fmt: skip


def _windowed(frame: np.ndarray, told: Any, scan: Any) -> np.ndarray:
    """A frame through the first window that an element tells; as it is where that tells none."""
    from pydicom.pixels import apply_windowing

    if told.get("WindowWidth") is None or told.get("WindowCenter") is None:
        return frame
    for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        if name in told:
            setattr(scan, name, told[name].value)
    # The range into which it is written follows from the stored type, which is of no interest: images are rescaled.
    return apply_windowing(frame.astype(np.float64), scan).astype(np.float32)


def _in_units(pixels: np.ndarray, scan: Any) -> np.ndarray:
    """Stored values → those that they stand for: Hounsfield units in CT. Unchanged where the file says nothing."""
    from pydicom.pixels import apply_modality_lut

    if "ModalityLUTSequence" in scan:
        return apply_modality_lut(pixels, scan)
    described = len(scan.get("PerFrameFunctionalGroupsSequence") or ())
    lines = [_line(scan, frame) for frame in range(min(len(pixels), described))]
    lines += [_line(scan, described)] * (len(pixels) - len(lines))
    if all(line == (1, 0) for line in lines):
        return pixels
    slopes, intercepts = np.array(lines, np.float32).T[..., None, None]
    return pixels.astype(np.float32) * slopes + intercepts


def _line(scan: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame."""
    group = _group(scan, frame, "PixelValueTransformationSequence") or scan
    return float(group.get("RescaleSlope") or 1), float(group.get("RescaleIntercept") or 0)


def _group(scan: Any, frame: int, name: str) -> Any:
    """The functional group of a frame, its own or that shared by all; None where there is none."""
    each = scan.get("PerFrameFunctionalGroupsSequence") or []
    shared = scan.get("SharedFunctionalGroupsSequence") or []
    for groups in (each[frame : frame + 1], shared[:1]):
        for group in groups:
            if found := group.get(name):
                return found[0]
    return None


def _of_frames(scan: Any, frames: int, group: str, name: str, count: int) -> tuple[tuple[float, ...] | None, ...]:
    """Some numbers of each frame; those beyond the frames that are described have what all share."""
    described = min(frames, len(scan.get("PerFrameFunctionalGroupsSequence") or ()))
    own = [_numbers(scan, k, group, name, count) for k in range(described)]
    return (*own, *[_numbers(scan, frames, group, name, count)] * (frames - described))


def _is_without_pixels(scan: Any) -> bool:
    """Whether it is an index, or of a class that holds no images, such as reports and plans."""
    from pydicom.uid import UID

    kind = UID(scan.get("SOPClassUID") or "")
    return "DirectoryRecordSequence" in scan or (kind.type == "SOP Class" and "Image Storage" not in kind.name)


def _numbers(scan: Any, frame: int, group: str, name: str, count: int) -> tuple[float, ...] | None:
    values = (_group(scan, frame, group) or scan).get(name)
    try:
        numbers = tuple(float(value) for value in values or ())
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _listed(scan: Any) -> Iterator[str]:
    """Paths of files that an index names, with their folders."""
    for record in scan.get("DirectoryRecordSequence") or []:
        if parts := record.get("ReferencedFileID"):
            yield parts if isinstance(parts, str) else "/".join(parts)


def _read(path: Path, **options: Any) -> Any:
    import pydicom
    from pydicom.uid import ImplicitVRLittleEndian

    _check_deflated(path)
    # Without a preamble, as some archives export them: read by force, and empty where it is no DICOM at all.
    scan = pydicom.dcmread(path, force=True, **options)
    if not len(scan):
        raise FileError(
            Reason.DAMAGED,
            f"needed a readable image; {path} is damaged or not what its name says (no DICOM elements).",
        )
    if "TransferSyntaxUID" not in scan.file_meta:
        # The default of the standard, unless it was found to be written with the types of its elements.
        scan.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return scan


def _check_deflated(path: Path) -> None:
    """Refuse a file whose elements are deflated and expand beyond what an image may hold."""
    if DEFLATED not in (read_head(path, _HEAD) or b""):
        return
    from pydicom.filereader import read_file_meta_info

    start = _META + int(read_file_meta_info(path).get("FileMetaInformationGroupLength") or 0)
    expander, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(start)
        for part in iter(lambda: file.read(1 << 20), b""):
            while part and count <= MOST_BYTES:
                count += len(expander.decompress(part, 1 << 24))
                part = expander.unconsumed_tail
    if count > MOST_BYTES:
        raise FileError(Reason.TOO_LARGE, f"needed at most {MOST_BYTES} bytes in {path}; it expands to more.")


def _check_decoder(scan: Any, path: Path) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax = scan.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or not syntax.is_encapsulated:
        return
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise needs(f"a decoder of {syntax.name}", "dicom", path)
    if syntax == JPEGExtended12Bit and int(scan.BitsStored) > 8 and "pylibjpeg" not in decoder.available_plugins:
        raise FileError(
            Reason.LIBRARY,
            f"needed a decoder of JPEG with losses and {scan.BitsStored} bits to read {path}; none is installed. "
            "Convert it, or pip install pylibjpeg-libjpeg, which is under the GPL-3.0.",
        )
