"""Whatever came in, checked and brought to what an encoder was trained on: channels, size, intensity."""

from collections.abc import Sequence
from typing import Any

import torch

from mi_callback.errors import DataError
from mi_callback.images.intensity import Intensity, describe_positions, normalise_intensity
from mi_callback.images.resizing import letterbox
from mi_callback.types import Images


def check_images(images: Any, channels: int = 1, dims: int = 2) -> Images:
    """Images that can be scored, as float32.

    Args:
        images: Tensor, MetaTensor or array, any intensity range, float or integer: `(n, 1, h, w)` or
            `(n, channels, h, w)`, of volumes `(n, 1, d, h, w)`.
        channels: Channels that the encoder takes.
        dims: Spatial dimensions that the encoder takes: 2 for images, 3 for volumes.

    Returns:
        The same images, float32, without gradients.

    Raises:
        DataError: For no image, a wrong shape or channel count, complex, NaN or infinite pixels, or constant images (no
            two distinct pixel values), with the positions of the images at fault.
    """
    images = images.as_tensor() if hasattr(images, "as_tensor") else torch.as_tensor(images)
    _check_shape(images, channels, dims)
    if images.is_complex():
        raise DataError("needed real-valued images; complex ones came. Pass their magnitude: images.abs().")
    images = images.detach().to(torch.float32)
    _check_content(images)
    return images


def check_batch(images: Any, channels: int, dims: int, first: int) -> Images:
    """As `check_images`, of a batch whose first image is number `first` of all.

    Raises:
        DataError: As `check_images`, with the position of the batch.
    """
    try:
        return check_images(images, channels, dims)
    except DataError as error:
        raise DataError(f"in the batch that begins at image {first}: {error}") from error


def preprocess(images: Images, size: Sequence[int], channels: int = 1, intensity: Intensity = "quantile") -> Images:
    """Checked images → the input of an encoder.

    Args:
        images: What `check_images` returns.
        size: Of the input, (h, w) or (d, h, w); images are fitted into it with their proportions kept.
        channels: That the encoder takes; grey images are repeated.
        intensity: Scaling of the grey values.

    Returns:
        Images `(n, channels, *size)`, float32.

    Raises:
        DataError: As `normalise_intensity`.
    """
    fitted = letterbox(normalise_intensity(images, intensity), size)
    return fitted.expand(-1, channels, *(-1 for _ in size))


def _check_shape(images: torch.Tensor, channels: int, dims: int) -> None:
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
    if images.shape[1] not in (1, channels):
        raise DataError(
            f"needed images of 1{f' or {channels}' if channels > 1 else ''} channel(s); {images.shape[1]} came. "
            "Grey images stored as RGB: images[:, :1]. Several contrasts: score them one at a time."
        )


def _check_content(images: Images) -> None:
    flat = images.flatten(1)
    broken = ~flat.isfinite().all(dim=1)
    if broken.any():
        raise DataError(f"needed finite pixels; images {describe_positions(broken)} hold NaN or infinity.")
    constant = flat.amin(dim=1) == flat.amax(dim=1)
    if constant.any():
        raise DataError(
            f"needed images with content; images {describe_positions(constant)} are constant (one value in every "
            "pixel). Drop empty slices from the data set; for generated images, look at the generator."
        )
