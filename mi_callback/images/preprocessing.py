"""The one place for channels, size and intensity: whatever came in → what an encoder was trained on."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.types import Images, Thumbnails

EMPTY, FAINT = 0.02, 0.05
"""Brightness, of a volume in [0, 1], up to which a voxel is empty, and mean of those around it up to which it is: noise
in the air must not hide where the anatomy ends."""

AROUND = 3
"""Side, in voxels, of what is around one."""

THUMBNAIL_SIDE = {2: 96, 3: 48}
"""Side, in pixels, of the thumbnails in which images are aligned and compared, by the number of dimensions."""

Intensity = Literal["minmax", "quantile", "zscore", "none"] | tuple[float, float]


def check_images(images: Any, channels: int = 1, dims: int = 2) -> Images:
    """Images that can be scored, as float32 `(n, 1, h, w)` or `(n, channels, h, w)`; volumes `(n, 1, d, h, w)`.

    Args:
        images: Tensor, MetaTensor or array, any intensity range, float or integer.
        channels: Channels the encoder takes.
        dims: Spatial dimensions the encoder takes: 2 for images, 3 for volumes.

    Raises:
        DataError: For no image, a wrong shape or channel count, NaN or infinite pixels, or constant images
            (no two distinct pixel values), with the positions of the images at fault.
    """
    images = images.as_tensor() if hasattr(images, "as_tensor") else torch.as_tensor(images)
    if images.ndim != dims + 2:
        shape = "h, w" if dims == 2 else "d, h, w"
        advice = "Add the channel axis?"
        if images.ndim == 5:
            advice = "Volumes need an encoder of volumes: build_encoder('slices'). Or score their slices."
        raise DataError(
            f"needed images of shape (n, 1, {shape}), or (n, c, {shape}) for an encoder of c channels; "
            f"{tuple(images.shape)} came. {advice}"
        )
    if len(images) == 0 or 0 in images.shape:
        raise DataError(f"needed at least one image; a batch of shape {tuple(images.shape)} came.")
    if images.is_complex():
        raise DataError("needed real-valued images; complex ones came. Pass their magnitude: images.abs().")
    if images.shape[1] not in (1, channels):
        raise DataError(
            f"needed images of 1{f' or {channels}' if channels > 1 else ''} channel(s); {images.shape[1]} came. "
            "Grey images stored as RGB: images[:, :1]. Several contrasts: score them one at a time."
        )
    images = images.detach().to(torch.float32)
    flat = images.flatten(1)
    broken = ~flat.isfinite().all(dim=1)
    if broken.any():
        raise DataError(f"needed finite pixels; images {_positions(broken)} hold NaN or infinity.")
    constant = flat.amin(dim=1) == flat.amax(dim=1)
    if constant.any():
        raise DataError(
            f"needed images with content; images {_positions(constant)} are constant (one value in every pixel). "
            "Drop empty slices from the data set; for generated images, look at the generator."
        )
    return images


def normalise_intensity(images: Images, intensity: Intensity) -> Images:
    """Scale each image on its own.

    `minmax`: to [0, 1]; `quantile`: the 0.5th and 99.5th percentile to 0 and 1, clipped (robust against hot pixels and
    noise); `zscore`: zero mean, unit variance; `none`: unchanged; `(low, high)`: that window, in the units of the
    images (Hounsfield units, say), to 0 and 1, clipped.

    Raises:
        DataError: For an unknown convention, or images that are constant within a window.
    """
    flat = images.flatten(1)
    match intensity:
        case "none":
            return images
        case "zscore":
            shift, scale = flat.mean(dim=1), flat.std(dim=1)
        case "minmax" | "quantile":
            low, high = flat.amin(dim=1), flat.amax(dim=1)
            if intensity == "quantile":
                q_low, q_high = _quantiles(flat, (0.005, 0.995))
                # Nearly empty images: the quantiles may coincide although the image has content.
                usable = q_high > q_low
                low, high = torch.where(usable, q_low, low), torch.where(usable, q_high, high)
            shift, scale = low, high - low
        case (low, high):
            return _windowed(images, low, high)
        case _:
            raise DataError(f"needed intensity minmax, quantile, zscore, none or (low, high); {intensity!r} came.")
    tiny = torch.finfo(images.dtype).tiny
    each = (-1, *(1 for _ in images.shape[1:]))
    scaled = (images - shift.view(each)) / scale.clamp_min(tiny).view(each)
    return scaled.clamp(0, 1) if intensity == "quantile" else scaled


def letterbox(images: Images, size: Sequence[int]) -> Images:
    """Fit images or volumes into `size`, (h, w) or (d, h, w), with their proportions kept, centred, borders filled with
    each one's minimum.

    Downsampling is antialiased, so a thumbnail does not depend on the phase of the pixel grid.
    """
    shape = images.shape[2:]
    if tuple(shape) == tuple(size):
        return images
    factor = min(wanted / side for wanted, side in zip(size, shape, strict=True))
    inner = [min(wanted, max(1, round(side * factor))) for wanted, side in zip(size, shape, strict=True)]
    resized = resize(images, inner)
    first = [(wanted - side) // 2 for wanted, side in zip(size, inner, strict=True)]
    canvas = resized.flatten(2).amin(dim=2).view(*resized.shape[:2], *(1 for _ in size))
    canvas = canvas.expand(*resized.shape[:2], *size).clone()
    inside: tuple[Any, ...] = tuple(slice(start, start + side) for start, side in zip(first, inner, strict=True))
    canvas[(..., *inside)] = resized
    return canvas


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images or volumes `(n, c, *spatial)` in another size: bilinear, antialiased.

    Torch does not antialias volumes: their slices come first, and then the depth.
    """
    *depth, height, width = size
    n, channels, *outer = images.shape[:-2]
    planes = F.interpolate(
        images.flatten(0, -3)[:, None], (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    planes = planes.view(n, channels, *outer, height, width)
    if not depth:
        return planes
    columns = planes.flatten(-2)  # (n, channels, depth, height · width): only the depth changes
    columns = F.interpolate(columns, (*depth, height * width), mode="bilinear", align_corners=False, antialias=True)
    return columns.unflatten(-1, (height, width))


def preprocess(images: Images, size: Sequence[int], channels: int = 1, intensity: Intensity = "quantile") -> Images:
    """Checked images `(n, c, *spatial)` → the input of an encoder, float32 `(n, channels, *size)`; grey is repeated."""
    fitted = letterbox(normalise_intensity(images, intensity), size)
    return fitted.expand(-1, channels, *(-1 for _ in size))


def thumbnails(images: Images, size: int) -> Thumbnails:
    """Checked images → uint8 `(n, size, size)`, or volumes `(n, size, size, size)`, for registration: quantile-scaled.

    Images keep their proportions. Of volumes what is not empty is stretched to fill the cube: the edges of borders
    would agree between strangers, and the affine map that aligns two volumes knows any stretch. Patient data.
    """
    grey = images.mean(dim=1, keepdim=True)
    if images.ndim == 4:
        fitted = letterbox(normalise_intensity(grey, "quantile"), (size, size))
    else:
        # Scaled without the borders: of what is not empty the same share is white, however wide they are.
        filled = [normalise_intensity(_content(volume), "quantile") for volume in grey.split(1)]
        fitted = torch.cat([resize(volume, (size,) * 3) for volume in filled])
    return fitted[:, 0].mul(255).round().to(torch.uint8)


def _content(volume: Tensor) -> Tensor:
    """The smallest box that holds what is not empty of a volume `(1, 1, d, h, w)`, as bright as it came."""
    scaled = normalise_intensity(volume, "quantile")
    step = [max(1, side - 1) for side in volume.shape[2:]]
    corners = scaled[..., :: step[0], :: step[1], :: step[2]]
    scaled = 1 - scaled if corners.median() > 1 - EMPTY else scaled  # in an inverted copy what is empty is white
    around = F.pad(scaled, (AROUND // 2,) * 6)  # outside of the volume all is empty
    for window in ((AROUND, 1, 1), (1, AROUND, 1), (1, 1, AROUND)):
        around = F.avg_pool3d(around, window, stride=1)
    filled = scaled > EMPTY
    filled = clear if (clear := filled & (around > FAINT)).any() else filled
    for axis in range(2, 5):
        there = filled.any(dim=[other for other in range(5) if other != axis]).nonzero().flatten().tolist()
        if there:
            volume = volume.narrow(axis, there[0], there[-1] + 1 - there[0])
    return volume


def _windowed(images: Tensor, low: float, high: float) -> Tensor:
    scaled = ((images - low) / (high - low)).clamp(0, 1)
    flat = scaled.flatten(1)
    empty = flat.amin(dim=1) == flat.amax(dim=1)
    if empty.any():
        raise DataError(
            f"needed images in the units of the intensity window {low:g} to {high:g}; images {_positions(empty)} are "
            f"constant within it (they reach from {float(images[empty].min()):g} to {float(images[empty].max()):g}). "
            "CT must be in Hounsfield units, generated images too."
        )
    return scaled


def _quantiles(flat: Tensor, levels: tuple[float, float]) -> tuple[Tensor, Tensor]:
    # torch.quantile refuses more than 2**24 elements; order statistics have no such limit.
    n = flat.shape[1]
    low, high = (flat.kthvalue(min(n, max(1, round(level * (n - 1)) + 1)), dim=1).values for level in levels)
    return low, high


def _positions(mask: Tensor, most: int = 8) -> str:
    found = mask.nonzero().flatten().tolist()
    return f"{found[:most]}{f' and {len(found) - most} more' if len(found) > most else ''} of {len(mask)}"
