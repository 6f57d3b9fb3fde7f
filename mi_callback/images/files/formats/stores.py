"""HDF5 files and Zarr stores, which hold many arrays under names → the one that holds images, as a stack of slices."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.formats.limits import check_claim
from mi_callback.images.files.telling import needs
from mi_callback.images.subjects.paths import ZARR

IMAGES = ("reconstruction_rss", "reconstruction_esc", "image", "images", "img", "volume", "data")
"""Names that images go by, those of fastMRI first: the first that is there is read, whatever other names there are."""

NO_IMAGES = ("kspace", "mask", "masks", "label", "labels", "seg", "segmentation")
"""Names of what has the shape of images and is none."""

LEAST_SIDE = 8
"""Pixels of the sides of an image, at least: a table has fewer columns."""

PATIENT = "patient_id"
"""Attribute of a file that says who is shown, as fastMRI has it."""


def read_store(path: Path) -> np.ndarray:
    """Slices `(n, h, w)` of the array that holds images; the magnitude of complex ones.

    That is the array of the first name in `IMAGES` that is there, or else the only one that has the shape of an image
    or of a stack of them and none of the names in `NO_IMAGES`. Axes of one place do not count.

    Raises:
        FileError: If h5py or zarr is not installed, no array or several may be meant (those of several people, say), or
            it is larger than any volume, or than the file can hold.
    """
    with _opened(path) as store:
        arrays = dict(_arrays(store))
        array = arrays[_named(arrays, path)]
        sides = [side for side in array.shape if side != 1]
        check_claim(path, (1, *sides), array.dtype.itemsize, size=_bytes_of(path))
        pixels = np.asarray(array[()]).reshape(-1, *sides[-2:])
    return np.abs(pixels) if np.iscomplexobj(pixels) else pixels


def read_patient(path: Path) -> str | None:
    """Who is shown, where the file says it."""
    try:
        with _opened(path) as store:
            found = store.attrs.get(PATIENT)
    except Exception:  # whoever reads it says what is wrong with it
        return None
    return None if found is None else found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def _named(arrays: Mapping[str, Any], path: Path) -> str:
    """The name of the array that holds images. Of several people in one file none is left unread in silence."""
    last = {name: name.rpartition("/")[2].lower() for name in arrays}
    shaped = [name for name, array in arrays.items() if _has_shape_of_images(array) and last[name] not in NO_IMAGES]
    known = next((wanted for wanted in IMAGES if wanted in {last[name] for name in shaped}), None)
    meant = shaped if known is None else [name for name in shaped if last[name] == known]
    if len(meant) == 1:
        return meant[0]
    held = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in list(arrays.items())[:5]) or "none"
    raise FileError(
        Reason.SHAPE,
        f"needed one array of slices (h, w) or (n, h, w) in {path}; {'several' if meant else 'none of that shape'} "
        f"came, among its arrays {held}. Name it image, or save it alone.",
    )


def _has_shape_of_images(array: Any) -> bool:
    sides = [side for side in array.shape if side != 1]
    return array.dtype.kind in "buifc" and len(sides) in (2, 3) and min(sides[-2:]) >= LEAST_SIDE


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.name.lower().endswith(ZARR):
        yield _import("zarr", path).open(str(path), mode="r")
        return
    with _import("h5py", path).File(path, "r") as store:
        yield store


def _import(library: str, path: Path) -> Any:
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise needs(library, "formats", path) from error


def _arrays(store: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every array by its name below the root, in the order of the names; what leads out of the file is passed by."""
    if not hasattr(store, "keys"):  # a store may be one array
        yield above or "array", store
        return
    for name in sorted(store.keys()):
        if hasattr(store, "get") and _leads_elsewhere(store, name):
            continue
        item = store[name]
        whole = f"{above}/{name}" if above else name
        if hasattr(item, "keys"):
            yield from _arrays(item, whole)
        elif not getattr(item, "external", None) and not getattr(item, "is_virtual", False) and hasattr(item, "shape"):
            yield whole, item


def _leads_elsewhere(group: Any, name: str) -> bool:
    """Whether an entry of a group of HDF5 is a link to another one, or into another file."""
    return "h5py" in type(group).__module__ and type(group.get(name, getlink=True)).__name__ != "HardLink"


def _bytes_of(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
