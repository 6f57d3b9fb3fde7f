"""One file → its pixels, as stored. Whatever is wrong with a file is told with its name."""

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mi_callback.errors import OptionError
from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.archives import local_file, when_changed
from mi_callback.images.files.formats.arrays import read_array
from mi_callback.images.files.formats.dicom import Voi, read_frames
from mi_callback.images.files.formats.pictures import read_picture, read_stack
from mi_callback.images.files.formats.series import Series
from mi_callback.images.files.formats.stores import read_store
from mi_callback.images.files.formats.volumes import read_itk, read_nibabel, real_values, stack_to_ras, to_ras
from mi_callback.images.files.kinds import FileKind, kind_of
from mi_callback.images.files.telling import told_by_name

VOLUMES = (FileKind.VOLUME, FileKind.ITK, FileKind.STACK, FileKind.HDF5, FileKind.ZARR)
"""Kinds of files that hold one volume each."""


def read_image(path: Path, colour: bool = False) -> np.ndarray:
    """Pixels of one file: `(h, w)`, or `(x, y, z)` in RAS orientation for volumes. Intensities as stored.

    Args:
        path: The file, which may lie in a zip archive: `a.zip/1.png`.
        colour: Read pictures as `(h, w, 3)`.

    Raises:
        DataError: If the file is damaged, has colour that was not asked for, holds complex values or none, or more than
            one slice without being a volume.
    """
    kind = kind_of(path)
    if kind in VOLUMES:
        return read_volume(path, kind)
    if kind is FileKind.DICOM:
        return read_frame(path, None, colour)
    return read_slice(path, kind, colour)


def checked_voi(voi: Any) -> Voi:
    """Values of interest as they can be used: see `formats.dicom.read_frames`.

    Raises:
        OptionError: If it is neither two numbers of which the second is above 0, nor `file`, nor None.
    """
    if voi is None or voi == "file":
        return voi
    numbers = [] if isinstance(voi, str) or not isinstance(voi, Iterable) else list(voi)
    real = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
    if len(numbers) != 2 or not real or numbers[1] <= 0:
        raise OptionError(f"needed voi as [center, width] of a window, 'file', or None; {voi!r} came.")
    return float(numbers[0]), float(numbers[1])


def read_slice(path: Path, kind: FileKind | None, colour: bool = False) -> np.ndarray:
    """The pixels of a picture or an array, `(h, w)`, or `(h, w, 3)` of a picture in colour.

    Raises:
        FileError: As `read_image`.
    """
    with told_by_name(path), local_file(path) as local:
        if kind is FileKind.ARRAY:
            return _single_channel(real_values(read_array(local), path), path)
        pixels = real_values(read_picture(local, colour), path)
        return pixels if colour else _single_channel(pixels, path)


def read_volume(path: Path, kind: FileKind) -> np.ndarray:
    """Voxels of a file that holds one volume, `(x, y, z)` in RAS orientation, float32.

    Raises:
        FileError: As `read_image`.
    """
    with told_by_name(path):
        return _read_volume(path, kind, when_changed(path))


def read_frame(path: Path, index: int | None, colour: bool = False, voi: Voi = None) -> np.ndarray:
    """One image of a DICOM file, `(h, w)`, or `(h, w, 3)` if it has colour that was asked for.

    Args:
        path: The file.
        index: Which of its images; None for the only one.
        colour: Keep colours.
        voi: Values of interest: see `formats.dicom.read_frames`.

    Raises:
        FileError: As `read_image`, and if the only one is asked for and there are several.
    """
    with told_by_name(path):
        frames = _read_frames(path, voi, when_changed(path))
        if index is None and len(frames) > 1:
            raise FileError(
                Reason.SHAPE, f"needed one slice in {path}; it has {len(frames)} frames. Read them by SliceFolder."
            )
        pixels = real_values(frames[index or 0], path)
        return pixels[..., :3] if colour and pixels.ndim == 3 else _single_channel(pixels, path)


def read_series(series: Series, voi: Voi = None) -> np.ndarray:
    """Voxels of a DICOM series, `(x, y, z)`; in RAS orientation where the files say how they lay.

    Raises:
        FileError: If a file of it cannot be read.
    """
    frames = (read_frame(frame.path, frame.number, voi=voi) for frame in series.frames)
    slices = np.stack([pixels.astype(np.float32) for pixels in frames])
    if series.axes is None:
        return stack_to_ras(slices)
    return to_ras(slices.transpose(2, 1, 0), series.axes, series.name)


@lru_cache(maxsize=2)
def _read_volume(path: Path, kind: FileKind, _changed: int) -> np.ndarray:
    """A volume is read once for all of its slices, and again when the file has changed."""
    with local_file(path) as local:
        if kind is FileKind.STACK:
            return stack_to_ras(real_values(read_stack(local), path).astype(np.float32))
        if kind in (FileKind.HDF5, FileKind.ZARR):
            return stack_to_ras(real_values(read_store(local), path).astype(np.float32))
        return read_itk(local) if kind is FileKind.ITK else read_nibabel(local)


@lru_cache(maxsize=2)
def _read_frames(path: Path, voi: Voi, _changed: int) -> np.ndarray:
    with local_file(path) as local:
        return read_frames(local, voi)


def _single_channel(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        colours = pixels[..., :3]
        if not (colours == colours[..., :1]).all():
            raise FileError(
                Reason.COLOUR,
                f"needed a single-channel image; {path} has colour. Convert it to grey values, or say colour=True.",
            )
        pixels = colours[..., 0]
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels.reshape([side for side in pixels.shape if side != 1] or [1, 1])
    if pixels.ndim != 2:
        raise FileError(Reason.SHAPE, f"needed one (h, w) slice; {path} has shape {pixels.shape}.")
    return pixels
