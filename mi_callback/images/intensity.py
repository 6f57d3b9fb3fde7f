"""Scaling of grey values: the convention that an encoder was trained with."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_callback.errors import DataError, choice
from mi_callback.images.config import INTENSITY
from mi_callback.types import Images, Kind


class Scaling(Kind):
    """How the grey values of an image are scaled, each image on its own.

    `minmax`: darkest and brightest pixel to 0 and 1; `quantile`: the 0.5th and 99.5th percentile to 0 and 1, clipped,
    which hot pixels and noise hardly move; `zscore`: zero mean and unit variance; `none`: unchanged.
    """

    MINMAX = "minmax"
    QUANTILE = "quantile"
    ZSCORE = "zscore"
    NONE = "none"


Intensity = Scaling | str | tuple[float, float]
"""A `Scaling`, or the window (low, high), in the units of the images (Hounsfield units, say), that becomes [0, 1]."""


def normalise_intensity(images: Images, intensity: Intensity) -> Images:
    """Scale the grey values of each image on its own.

    Args:
        images: Images or volumes with content, in any range.
        intensity: A `Scaling`, or a window (low, high) that becomes [0, 1], clipped.

    Returns:
        Images of the same shape.

    Raises:
        DataError: For an unknown convention, or images that are constant within a window.

    Example:
        >>> normalise_intensity(torch.tensor([[[[100.0, 300.0, 200.0]]]]), "minmax")
        tensor([[[[0.0000, 1.0000, 0.5000]]]])
    """
    match intensity:
        case (start, end):
            return _scale_window(images, start, end)
    match choice("an intensity window (low, high), or intensity", intensity, Scaling):
        case Scaling.NONE:
            return images
        case Scaling.ZSCORE:
            flat = images.flatten(1)
            return _scale(images, flat.mean(dim=1), flat.std(dim=1))
        case Scaling.MINMAX:
            flat = images.flatten(1)
            low, high = flat.amin(dim=1), flat.amax(dim=1)
            return _scale(images, low, high - low)
        case Scaling.QUANTILE:
            low, high = _quantile_range(images.flatten(1))
            return _scale(images, low, high - low).clamp(0, 1)


def describe_positions(mask: Bool[Tensor, " n"], most: int = 8) -> str:
    """Where a mask is true, for error messages: the first positions, and how many more there are."""
    found = mask.nonzero().flatten().tolist()
    return f"{found[:most]}{f' and {len(found) - most} more' if len(found) > most else ''} of {len(mask)}"


def _scale(images: Images, shift: Float[Tensor, " n"], scale: Float[Tensor, " n"]) -> Images:
    each = (-1, *(1 for _ in images.shape[1:]))
    return (images - shift.view(each)) / scale.clamp_min(torch.finfo(images.dtype).tiny).view(each)


def _scale_window(images: Images, low: float, high: float) -> Images:
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


def _quantile_range(flat: Float[Tensor, "n pixels"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The quantiles that become 0 and 1; of nearly empty images, where both are equal, the extremes."""
    # torch.quantile refuses more than 2**24 elements; order statistics have no such limit.
    n = flat.shape[1]
    low, high = (
        flat.kthvalue(min(n, max(1, round(level * (n - 1)) + 1)), dim=1).values
        for level in (INTENSITY.low, INTENSITY.high)
    )
    usable = high > low
    return torch.where(usable, low, flat.amin(dim=1)), torch.where(usable, high, flat.amax(dim=1))
