"""PNG, JPEG, TIFF and the like → their pixels."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np

from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.formats.limits import check_claim
from mi_callback.images.files.kinds import TIFF
from mi_callback.images.files.telling import needs

NOT_PLAIN = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
"""Modes of Pillow whose numbers are no intensities of grey, or of red, green and blue."""


def read_picture(path: Path, colour: bool = False) -> np.ndarray:
    """Pixels of a picture, `(h, w)` or with its channels last; as `(h, w, 3)` where its colour is asked for.

    Raises:
        FileError: If it has several pages, or is larger than any image.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as picture:
                return _pixels(picture, path, colour)
        except Image.DecompressionBombWarning as error:
            raise FileError(Reason.TOO_LARGE, f"needed a picture of fewer pixels; {path}: {error}.") from error
        except Image.DecompressionBombError as error:
            raise FileError(Reason.TOO_LARGE, f"needed a picture of fewer pixels; {path}: {error}") from error
        except UnidentifiedImageError:
            if not path.name.lower().endswith(TIFF) or importlib.util.find_spec("tifffile") is None:
                raise
    # 64-bit floats and some compressions are read by tifffile alone.
    return read_stack(path)[0]


def _pixels(picture, path: Path, colour: bool) -> np.ndarray:  # type: ignore[no-untyped-def]
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        raise FileError(Reason.SHAPE, f"needed one slice in {path}; it has {pages} pages. Save them apart.")
    check_claim(path, (picture.height, picture.width), 1)
    if colour:
        return np.asarray(picture.convert("RGB"))
    if picture.mode == "LA":
        return np.asarray(picture.getchannel(0))
    return np.asarray(picture.convert("RGB") if picture.mode in NOT_PLAIN else picture)


def read_stack(path: Path) -> np.ndarray:
    """All pages of a TIFF file, `(pages, h, w)`, in their order.

    Raises:
        FileError: If tifffile is not installed, pages differ in size, or they are channels or time points.
    """
    try:
        import tifffile
    except ImportError as error:
        raise needs("tifffile", "formats", path) from error
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise FileError(Reason.SHAPE, f"needed pages of one size in {path}; they are of {len(file.series)}.")
        series = file.series[0]
        sides = dict(zip(series.axes, series.shape, strict=True))
        check_claim(path, series.shape, series.dtype.itemsize)
        further = [axis for axis, side in sides.items() if axis in "CTS" and side > 1]
        if further or series.axes[-2:] != "YX":
            raise FileError(Reason.SHAPE, f"needed slices of one channel and time in {path}; it has axes {sides}.")
        return series.asarray().reshape(-1, *series.shape[-2:])
