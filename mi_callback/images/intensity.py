"""Scaling of grey values: the convention that an encoder was trained with."""

from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.types import Images

Intensity = Literal["minmax", "quantile", "zscore", "none"] | tuple[float, float]


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


def _windowed(images: Tensor, low: float, high: float) -> Tensor:
    scaled = ((images - low) / (high - low)).clamp(0, 1)
    flat = scaled.flatten(1)
    empty = flat.amin(dim=1) == flat.amax(dim=1)
    if empty.any():
        raise DataError(
            f"needed images in the units of the intensity window {low:g} to {high:g}; images "
            f"{describe_positions(empty)} are constant within it (they reach from {float(images[empty].min()):g} to "
            f"{float(images[empty].max()):g}). CT must be in Hounsfield units, generated images too."
        )
    return scaled


def _quantiles(flat: Tensor, levels: tuple[float, float]) -> tuple[Tensor, Tensor]:
    # torch.quantile refuses more than 2**24 elements; order statistics have no such limit.
    n = flat.shape[1]
    low, high = (flat.kthvalue(min(n, max(1, round(level * (n - 1)) + 1)), dim=1).values for level in levels)
    return low, high


def describe_positions(mask: Tensor, most: int = 8) -> str:
    found = mask.nonzero().flatten().tolist()
    return f"{found[:most]}{f' and {len(found) - most} more' if len(found) > most else ''} of {len(mask)}"
