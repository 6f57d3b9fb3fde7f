"""Volumes of NIfTI, FreeSurfer and ITK files, and stacks of slices → voxels in RAS orientation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.images.files.formats.limits import check_claim
from mi_callback.images.files.telling import needs

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""DICOM and ITK count to the left and to the back, NIfTI to the right and to the front."""


def read_nibabel(path: Path) -> np.ndarray:
    """Voxels `(x, y, z)`, float32, from left to right, back to front, foot to head, as near as the affine tells.

    Raises:
        FileError: If it is no volume, or larger than any.
    """
    import nibabel

    image: Any = nibabel.load(path)
    sides = volume_sides(image.shape, path)
    check_claim(path, sides, image.get_data_dtype().itemsize)
    voxels = real_values(np.asarray(image.dataobj), path).astype(np.float32).reshape(sides)
    return to_ras(fill_outside(voxels, path), image.affine[:3, :3], path)


def read_itk(path: Path) -> np.ndarray:
    """As `read_nibabel`, for `.mha`, `.mhd` and `.nrrd`.

    Raises:
        FileError: If SimpleITK is not installed, or it is no volume, or larger than any.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise needs("SimpleITK", "itk", path) from error
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    sides = volume_sides(reader.GetSize(), path)
    check_claim(path, sides, 1, size=_bytes_beside(path))
    if reader.GetNumberOfComponents() > 1:
        raise FileError(Reason.SHAPE, f"needed one channel; {path} has {reader.GetNumberOfComponents()}. Split them.")
    image = reader.Execute()
    voxels = real_values(SimpleITK.GetArrayFromImage(image), path).astype(np.float32).T.reshape(sides)
    dims = image.GetDimension()
    axes = np.eye(3)
    known = min(dims, 3)
    axes[:known, :known] = np.reshape(image.GetDirection(), (dims, dims))[:known, :known]
    return to_ras(fill_outside(voxels, path), LPS_TO_RAS @ axes, path)


def stack_to_ras(slices: np.ndarray) -> np.ndarray:
    """Slices `(n, h, w)` that do not say how they lay, as a volume seen from the feet: `(w, h, n)`, rows upwards."""
    return slices.transpose(2, 1, 0)[:, ::-1]


def to_ras(voxels: np.ndarray, axes: np.ndarray, path: Path) -> np.ndarray:
    """Turn and flip a volume so that its axes are those of RAS orientation, as nearly as they can be.

    Args:
        voxels: As stored.
        axes: Column k is the direction of axis k, in RAS coordinates, `(3, 3)`.
        path: For the message.

    Raises:
        FileError: If an axis has no direction.
    """
    import nibabel

    affine = np.eye(4)
    affine[:3, :3] = axes
    found = nibabel.io_orientation(affine) if np.isfinite(axes).all() else np.full((3, 2), np.nan)
    if not np.isfinite(found).all():
        raise FileError(
            Reason.DAMAGED, f"needed an affine of three axes in {path}; some of its axes have no direction."
        )
    return nibabel.apply_orientation(voxels, found)


def volume_sides(shape: Sequence[int], path: Path) -> tuple[int, ...]:
    """Three axes: further ones of one place are left out, and a slice is a volume of one.

    Raises:
        FileError: If there are more, or no voxels.
    """
    sides = [int(side) for side in shape]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) == 2:
        sides.append(1)
    if len(sides) != 3 or min(sides) < 1:
        raise FileError(
            Reason.SHAPE, f"needed a 3D volume; {path} has shape {tuple(shape)}. Split its channels or time points."
        )
    return tuple(sides)


def fill_outside(voxels: np.ndarray, path: Path) -> np.ndarray:
    """NaN outside the field of view → the least value; NaN is outside where it reaches the border of the volume.

    Raises:
        FileError: If NaN lies within, or a value is infinite.
    """
    unknown = np.isnan(voxels)
    if not unknown.any():
        return voxels
    from scipy import ndimage

    regions, count = ndimage.label(unknown)
    border = {int(region) for axis in range(3) for end in (0, -1) for region in np.unique(regions.take(end, axis))}
    if unknown.all() or set(range(1, count + 1)) - border:
        raise FileError(Reason.NOT_FINITE, f"needed finite values; {path} holds NaN within its field of view.")
    return np.where(unknown, np.nanmin(voxels), voxels)


def real_values(pixels: np.ndarray, path: Path) -> np.ndarray:
    """The same pixels, where they are real numbers.

    Raises:
        FileError: If they are complex, no numbers, or none.
    """
    if np.iscomplexobj(pixels):
        raise FileError(Reason.VALUES, f"needed real values; {path} holds complex ones. Save their magnitude.")
    if pixels.dtype.kind not in "buif":
        raise FileError(Reason.VALUES, f"needed numbers; {path} holds values of type {pixels.dtype}.")
    if not pixels.size:
        raise FileError(Reason.SHAPE, f"needed pixels; {path} has shape {pixels.shape}.")
    return pixels


def _bytes_beside(path: Path) -> int:
    """Bytes of a file and of those of its name beside it, in one of which its data may be."""
    stem = path.name.partition(".")[0]
    return sum(other.stat().st_size for other in path.parent.glob("*") if other.name.partition(".")[0] == stem)
