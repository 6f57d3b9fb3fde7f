"""Arrays of NumPy → their pixels."""

from pathlib import Path

import numpy as np

from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.formats.limits import check_claim


def read_array(path: Path) -> np.ndarray:
    """The array of a `.npy`, or the only one of a `.npz`, as stored. Objects are never unpickled.

    Raises:
        FileError: If there are several, or it is larger than an image or than the file can hold.
        ValueError: If it is damaged, or holds objects.
    """
    if path.name.lower().endswith(".npy"):
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_header(file, path, size)
            return np.load(file, allow_pickle=False)
    return _read_only_one(path)


def _read_only_one(path: Path) -> np.ndarray:
    import zipfile

    with zipfile.ZipFile(path) as whole:
        members = [member for member in whole.infolist() if member.filename.endswith(".npy")]
        if len(members) != 1:
            names = [member.filename.removesuffix(".npy") for member in members[:5]]
            raise FileError(Reason.SHAPE, f"needed one array in {path}; it holds {len(members)} {names}. Save one.")
        with whole.open(members[0]) as file:
            _check_header(file, path, path.stat().st_size * 1000)
        with whole.open(members[0]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file, path: Path, size: int) -> None:  # type: ignore[no-untyped-def]
    """Refuse an array that would not fit into `size` bytes; the file is at its beginning again afterwards."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    check_claim(path, shape, dtype.itemsize)
    if not dtype.hasobject and int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
        raise FileError(Reason.DAMAGED, f"needed a readable image; {path} is damaged or cut: it lacks some of {shape}.")
    if file.seekable():
        file.seek(0)
