"""What samplers return → a tensor: arrays, PIL images, lists of either, outputs of pipelines."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_callback.errors import SamplerError

CHANNELS = (1, 3, 4)
"""Channels that an image may have which holds them in its last axis."""


def as_images(drawn: Any) -> Tensor:
    """Images `(n, c, h, w)`, or what else a tensor or an array held, for others to check.

    Args:
        drawn: A tensor; an array `(n, c, h, w)` or `(n, h, w, c)`; a list of tensors, arrays or PIL images, one each;
            or an object with such `images`, as pipelines of diffusers return.

    Raises:
        SamplerError: For anything else.
    """
    drawn = getattr(drawn, "images", drawn)
    if isinstance(drawn, Tensor):
        return drawn
    if isinstance(drawn, np.ndarray) and drawn.dtype != object:
        return _channels_first(torch.from_numpy(np.ascontiguousarray(drawn)))
    if isinstance(drawn, (list, tuple)) and drawn:
        each = [_one(image) for image in drawn]
        if len({tuple(image.shape) for image in each}) > 1:
            raise SamplerError(
                f"needed generated images of one shape; the sampler returned {sorted({tuple(i.shape) for i in each})}."
            )
        return torch.stack(each)
    raise _refused(drawn)


def _one(image: Any) -> Tensor:
    """One image `(c, h, w)`, or a volume `(c, d, h, w)`; grey pictures that are stored in colour have one channel."""
    if isinstance(image, Tensor):
        return image
    if isinstance(image, np.ndarray) and image.dtype != object:
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        return pixels[None] if pixels.ndim == 2 else _channels_first(pixels[None])[0]
    if hasattr(image, "getbands") and hasattr(image, "convert"):
        return _of_picture(image)
    raise _refused([image])


def _of_picture(picture: Any) -> Tensor:
    if picture.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBA", "RGBa"):
        picture = picture.convert("RGB")
    pixels = torch.from_numpy(np.array(picture))
    if pixels.ndim == 2:
        return pixels[None].to(torch.uint8) if pixels.dtype == torch.bool else pixels[None]
    pixels = pixels.movedim(-1, 0)
    return pixels[:1] if bool((pixels == pixels[:1]).all()) else pixels


def _channels_first(images: Tensor) -> Tensor:
    last = images.ndim == 4 and images.shape[-1] in CHANNELS and images.shape[1] not in CHANNELS
    return images.movedim(-1, 1) if last else images


def _refused(drawn: Any) -> SamplerError:
    what = (
        f"a list of {type(drawn[0]).__name__}" if isinstance(drawn, (list, tuple)) and drawn else type(drawn).__name__
    )
    return SamplerError(
        f"needed a tensor (n, 1, h, w), or (n, 1, d, h, w), from the sampler, an array or a list of images; {what} "
        "came. Wrap it: sampler=lambda module, n: torch.stack(…)."
    )
