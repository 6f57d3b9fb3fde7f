"""What a file claims to hold is checked before it is read: nothing fills the memory, nothing takes hours."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from mi_callback.images.files.accounts import FileError, Reason

MOST_PIXELS = 1 << 26
"""Pixels of one slice: 8192 × 8192. Above, Pillow warns too."""

MOST_VOXELS = 1 << 29
"""Voxels of one volume: 1024 × 1024 × 512, two gigabytes as they are computed with."""

FREE, EXPANSION = 1 << 26, 500
"""A file may hold so many bytes, and beyond them so many times its own size. Real scans shrink up to a hundredfold."""


def within(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Values with those outside a window, given by its center and width, cut off: float32.

    Example:
        >>> within(np.array([-1000, 40, 3000]), (40, 400)).tolist()
        [-160.0, 40.0, 240.0]
    """
    center, width = window
    return np.clip(pixels.astype(np.float32), center - width / 2, center + width / 2)


def check_claim(path: Path, shape: Sequence[int], itemsize: int, size: int | None = None) -> None:
    """Refuse what is too large to be an image, by what its header says.

    Args:
        path: The file, for the message.
        shape: Of all its pixels.
        itemsize: Bytes of each.
        size: Bytes of the file; asked of the system when None.

    Raises:
        FileError: If it is larger than any image, or far larger than the file can hold.
    """
    most = MOST_PIXELS if len(shape) == 2 else MOST_VOXELS
    pixels = prod(int(side) for side in shape)
    if pixels > most:
        raise FileError(Reason.TOO_LARGE, f"needed at most {most} pixels; {path} says that it has {pixels}.")
    size = path.stat().st_size if size is None else size
    if pixels * itemsize > FREE + EXPANSION * size:
        raise FileError(
            Reason.TOO_LARGE,
            f"needed a file that holds what its header says; {path} has {size} bytes for {pixels} pixels.",
        )
