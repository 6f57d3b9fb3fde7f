"""Which kind of file is it?"""

from pathlib import Path

from mi_callback.images.subjects.paths import VOLUMES

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ARRAYS = (".npy",)
DICOM = (".dcm", ".ima")
ENDINGS = {"picture": PICTURES, "array": ARRAYS, "volume": VOLUMES, "dicom": DICOM}

_PREAMBLE = 128
"""Bytes of a DICOM file before its mark."""


def kind_of(path: Path) -> str | None:
    """The kind of a file by its name, or, where that has no ending that is known, DICOM by its mark; else None."""
    name = path.name.lower()
    kind = next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)
    return "dicom" if kind is None and _may_be_dicom(path) else kind


def _may_be_dicom(path: Path) -> bool:
    # Scanners name files IM000001, or by numbers with dots, without an ending.
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False
