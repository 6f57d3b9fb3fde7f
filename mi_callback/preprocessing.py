"""The one place for channels, size and intensity: whatever came in → what an encoder was trained on."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.types import Images, Thumbnails

Intensity = Literal["minmax", "quantile", "zscore", "none"]

_SHAPE = "(n, 1, h, w), or (n, c, h, w) for an encoder of c channels"


def check_images(images: Any, channels: int = 1) -> Images:
    """Images that can be scored, as float32 `(n, 1, h, w)` or `(n, channels, h, w)`.

    Args:
        images: Tensor, MetaTensor or array, any intensity range, float or integer.
        channels: Channels the encoder takes.

    Raises:
        DataError: For no image, a wrong shape or channel count, NaN or infinite pixels, or constant images
            (no two distinct pixel values), with the positions of the images at fault.
    """
    images = images.as_tensor() if hasattr(images, "as_tensor") else torch.as_tensor(images)
    if images.ndim != 4:
        raise DataError(f"needed images of shape {_SHAPE}; {tuple(images.shape)} came. Add the channel axis?")
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
    """Scale each image on its own. `minmax`: to [0, 1]; `quantile`: the 0.5th and 99.5th percentile to 0 and 1,
    clipped (robust against hot pixels and noise); `zscore`: zero mean, unit variance; `none`: unchanged.
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
        case _:
            raise DataError(f"needed intensity minmax, quantile, zscore or none; {intensity!r} came.")
    tiny = torch.finfo(images.dtype).tiny
    scaled = (images - shift.view(-1, 1, 1, 1)) / scale.clamp_min(tiny).view(-1, 1, 1, 1)
    return scaled.clamp(0, 1) if intensity == "quantile" else scaled


def letterbox(images: Images, size: tuple[int, int]) -> Images:
    """Fit images into `size` = (h, w) with their proportions kept, centred, borders filled with each image's minimum.

    Downsampling is antialiased, so a thumbnail does not depend on the phase of the pixel grid.
    """
    h, w = images.shape[-2:]
    if (h, w) == tuple(size):
        return images
    factor = min(size[0] / h, size[1] / w)
    inner = (min(size[0], max(1, round(h * factor))), min(size[1], max(1, round(w * factor))))
    resized = F.interpolate(images, inner, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = resized.amin(dim=(-2, -1), keepdim=True).expand(*resized.shape[:2], *size).clone()
    canvas[..., top : top + inner[0], left : left + inner[1]] = resized
    return canvas


def preprocess(images: Images, size: tuple[int, int], channels: int = 1, intensity: Intensity = "quantile") -> Images:
    """Checked images `(n, c, h, w)` → the input of an encoder, float32 `(n, channels, *size)`; grey is repeated."""
    fitted = letterbox(normalise_intensity(images, intensity), size)
    return fitted.expand(-1, channels, -1, -1)


def thumbnails(images: Images, size: int) -> Thumbnails:
    """Checked images → uint8 `(n, size, size)` for registration: quantile-scaled, proportions kept. Patient data."""
    grey = images.mean(dim=1, keepdim=True)
    return letterbox(normalise_intensity(grey, "quantile"), (size, size))[:, 0].mul(255).round().to(torch.uint8)


def _quantiles(flat: Tensor, levels: tuple[float, float]) -> tuple[Tensor, Tensor]:
    # torch.quantile refuses more than 2**24 elements; order statistics have no such limit.
    n = flat.shape[1]
    low, high = (flat.kthvalue(min(n, max(1, round(level * (n - 1)) + 1)), dim=1).values for level in levels)
    return low, high


def _positions(mask: Tensor, most: int = 8) -> str:
    found = mask.nonzero().flatten().tolist()
    return f"{found[:most]}{f' and {len(found) - most} more' if len(found) > most else ''} of {len(mask)}"
