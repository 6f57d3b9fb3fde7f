"""Which kind of file is it?"""

from pathlib import Path

from mi_callback.images.files.archives import archive_of, is_archive, local_file, read_head
from mi_callback.images.subjects.paths import HDF5, ITK, NIBABEL, ZARR
from mi_callback.types import Kind


class FileKind(Kind):
    """How a file is read."""

    PICTURE = "picture"
    STACK = "stack of pages"
    ARRAY = "array"
    VOLUME = "volume"
    ITK = "itk"
    DICOM = "dicom"
    HDF5 = "hdf5"
    ZARR = "zarr"
    ARCHIVE = "archive"
    NOT_READ = "not read"


PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
TIFF = (".tif", ".tiff")
ARRAYS = (".npy", ".npz")
DICOM = (".dcm", ".ima", ".dicom", ".dic")
NOT_READ = (".mat", ".mnc", ".nc", ".zarr.zip", ".n5", ".par", ".svs", ".vti", ".gipl", ".tar", ".tar.gz", ".tgz",
            ".rar", ".7z", ".tfrecord", ".tfrecords", ".lmdb", ".mdb", ".avi", ".mp4")  # fmt: skip
"""Endings of what may well hold images, and is not read: it fails, as a damaged file does."""

ENDINGS = {
    FileKind.PICTURE: PICTURES,
    FileKind.ARRAY: ARRAYS,
    FileKind.VOLUME: NIBABEL,
    FileKind.ITK: ITK,
    FileKind.DICOM: DICOM,
    FileKind.HDF5: HDF5,
    FileKind.ZARR: ZARR,
}
"""Endings of what is read."""

UNITS = (FileKind.DICOM, FileKind.VOLUME, FileKind.ITK)
"""Kinds of files that hold values in units, such as Hounsfield units, of which a window can be cut out."""

ORIENTED = (*NIBABEL, *ITK)
"""Endings of volumes of which any axis can be sliced."""

BESIDE = (".csv", ".tsv", ".json", ".txt", ".md", ".html", ".xml", ".yaml", ".yml", ".bval", ".bvec", ".pdf", ".log",
          ".jsonl", ".py", ".part", ".sh", ".xlsx", ".xls", ".parquet")  # fmt: skip
"""Endings of files that stand beside images and are none."""

DETACHED = {".raw": (".mhd", ".nhdr"), ".zraw": (".mhd", ".nhdr"), ".img": (".hdr",), ".raw.gz": (".nhdr",)}
"""Endings of data whose header is in another file, and the endings of that."""

_PREAMBLE = 128
"""Bytes of a DICOM file before its mark."""

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""Groups with which DICOM elements begin where there is no preamble, as bytes."""


def kind_of(path: Path) -> FileKind | None:
    """The kind of a file by its name, or, where that has no ending that is known, DICOM by its content; else None."""
    name = path.name.lower()
    if is_archive(path) and not name.endswith(NOT_READ):
        return FileKind.ARCHIVE
    kind = next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)
    if kind is FileKind.PICTURE and name.endswith(TIFF) and _has_pages(path):
        return FileKind.STACK
    if kind is not None:
        return kind
    if name.endswith(NOT_READ) or _lacks_its_header(path):
        return FileKind.NOT_READ
    return None if name.endswith((*BESIDE, *DETACHED)) else _by_content(path)


def _lacks_its_header(path: Path) -> bool:
    ending = next((ending for ending in DETACHED if path.name.lower().endswith(ending)), None)
    if ending is None or archive_of(path) is not None:
        return False
    stem = path.name[: -len(ending)]
    return not any(path.with_name(stem + header).exists() for header in DETACHED[ending])


def _has_pages(path: Path) -> bool:
    from PIL import Image

    try:
        with local_file(path) as local, Image.open(local) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except Exception:  # whoever reads it says what is wrong with it
        return False


def _by_content(path: Path) -> FileKind | None:
    # Scanners name files IM000001, or by numbers with dots, without an ending; archives leave out the preamble.
    head = read_head(path, _PREAMBLE + 4) or b""
    if head[_PREAMBLE:] == b"DICM":
        return FileKind.DICOM
    bare = len(head) > 8 and head[:2] in _FIRST_GROUPS and head[3] == 0 and not path.suffix.strip(".0123456789")
    return FileKind.DICOM if bare else None
