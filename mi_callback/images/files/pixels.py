"""One file → its pixels, as stored. Whatever is wrong with a file is told with its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mi_callback.errors import DataError
from mi_callback.images.files.kinds import kind_of


def read_image(path: Path, colour: bool = False) -> np.ndarray:
    """Pixels of one file: `(h, w)`, or `(x, y, z)` in RAS orientation for NIfTI. Intensities as stored.

    Args:
        path: The file.
        colour: Read pictures as `(h, w, 3)`.

    Raises:
        DataError: If the file is damaged, has colour that was not asked for, holds complex values or none, or more than
            one slice without being a volume.
    """
    with _told_with_its_name(path):
        return _real(_read(path, colour), path)


def depth_of(path: Path, axis: int) -> int:
    """Number of slices of a volume along an axis of RAS orientation, from its header alone.

    Raises:
        DataError: If the file is damaged, or no volume.
    """
    import nibabel

    with _told_with_its_name(path):
        image: Any = nibabel.load(path)
        shape = _volume_shape(image.shape, path)
        return shape[_orientation(image, path)[:, 0].tolist().index(axis)]


def patient_of(path: Path) -> str | None:
    """The PatientID of a DICOM file; None for other files, and where there is none.

    Raises:
        DataError: If the file is damaged.
    """
    if kind_of(path) != "dicom":
        return None
    with _told_with_its_name(path):
        patient = _read_dicom(path, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID")
    return None if patient is None else str(patient)


@contextmanager
def _told_with_its_name(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each library has errors of its own
        raise DataError(f"needed a readable image; {path} is damaged or not what its name says ({error}).") from error


def _read(path: Path, colour: bool) -> np.ndarray:
    match kind_of(path):
        case "volume":
            return _read_volume(path, path.stat().st_mtime_ns)
        case "dicom":
            scan = _read_dicom(path)
            pixels = _in_units(_single_channel(scan.pixel_array, path), scan)
            # MONOCHROME1 stores bright as low; grey values are turned so that bright is high everywhere.
            return pixels.max() - pixels if scan.get("PhotometricInterpretation") == "MONOCHROME1" else pixels
        case "array":
            return _single_channel(np.load(path, allow_pickle=False), path)
        case _:
            return _read_picture(path, colour)


def _read_picture(path: Path, colour: bool) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        if (pages := getattr(picture, "n_frames", 1)) > 1:
            raise DataError(f"needed one slice in {path}; it has {pages} pages. Save them apart.")
        if colour:
            return np.asarray(picture.convert("RGB"))
        return _single_channel(np.asarray(picture.convert("RGB") if picture.mode == "P" else picture), path)


def _read_dicom(path: Path, **options: Any) -> Any:
    import pydicom
    from pydicom.uid import ImplicitVRLittleEndian

    # Without a preamble, as some archives export them: read by force, and empty where it is no DICOM at all.
    scan = pydicom.dcmread(path, force=True, **options)
    if not len(scan) and "specific_tags" not in options:
        raise DataError(f"needed a readable image; {path} is damaged or not what its name says (no DICOM elements).")
    if "TransferSyntaxUID" not in scan.file_meta:
        scan.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the default of the standard
    return scan


def _in_units(pixels: np.ndarray, scan: Any) -> np.ndarray:
    """Stored values → those that they stand for: Hounsfield units in CT. Unchanged where the file says nothing."""
    slope, intercept = float(scan.get("RescaleSlope") or 1), float(scan.get("RescaleIntercept") or 0)
    return pixels if (slope, intercept) == (1, 0) else pixels.astype(np.float32) * slope + intercept


@lru_cache(maxsize=4)
def _read_volume(path: Path, _changed: int) -> np.ndarray:
    """A volume is read once for all of its slices, and again when the file has changed."""
    import nibabel

    image: Any = nibabel.load(path)
    voxels = _real(np.asarray(image.dataobj), path).astype(np.float32).reshape(_volume_shape(image.shape, path))
    return nibabel.apply_orientation(voxels, _orientation(image, path))


def _orientation(image: Any, path: Path) -> np.ndarray:
    """Of each axis as stored, the axis of RAS orientation that it is and its sign, `(3, 2)`."""
    import nibabel

    found = nibabel.io_orientation(image.affine)
    if not np.isfinite(found).all():
        raise DataError(f"needed an affine of three axes in {path}; some of its axes have no direction.")
    return found


def _volume_shape(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Three axes: further ones of one place are left out, and a slice is a volume of one."""
    sides = list(shape)
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) == 2:
        sides.append(1)
    if len(sides) != 3 or 0 in sides:
        raise DataError(f"needed a 3D volume; {path} has shape {shape}. Split its channels or time points.")
    return tuple(sides)


def _real(pixels: np.ndarray, path: Path) -> np.ndarray:
    if np.iscomplexobj(pixels):
        raise DataError(f"needed real values; {path} holds complex ones. Save their magnitude.")
    if pixels.dtype.kind not in "buif":
        raise DataError(f"needed numbers; {path} holds values of type {pixels.dtype}.")
    if not pixels.size:
        raise DataError(f"needed pixels; {path} has shape {pixels.shape}.")
    return pixels


def _single_channel(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        colours = pixels[..., :3]
        if not (colours == colours[..., :1]).all():
            raise DataError(
                f"needed a single-channel image; {path} has colour. Convert it to grey values, or say colour=True."
            )
        pixels = colours[..., 0]
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels.reshape([side for side in pixels.shape if side != 1] or [1, 1])
    if pixels.ndim != 2:
        raise DataError(f"needed one (h, w) slice; {path} has shape {pixels.shape}.")
    return pixels
