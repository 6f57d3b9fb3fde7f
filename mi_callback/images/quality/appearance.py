"""How images look, whoever they show: noise, sharpness, contrast, margins, burnt-in text, as one number each."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.config import APPEARANCE, AppearanceConfig
from mi_callback.images.filters import box_mean, gaussian_blur
from mi_callback.types import Thumbnails

AT_ONCE = 64
"""Images that are looked at together; bounds the memory."""


def appearance(thumbnails: Thumbnails, config: AppearanceConfig = APPEARANCE) -> dict[str, Float[Tensor, " n"]]:
    """Statistics of each image, by name; float64, on the scale of images in [0, 1].

    `noise`: standard deviation of pixel noise (Immerkær). `sharpness`: logarithm of the share of the slopes that
    survives a blur, negative; larger is sharper. `contrast`: standard deviation where the image is not empty.
    `brightness`: mean. `filled`: share that is not empty. `top margin` and so on: mean brightness of a band at each
    side. `frame`: mean brightness of the outermost pixels. `burnt-in text`: contrast within small windows of the
    corner that has most of it.

    Args:
        thumbnails: Of images, or of volumes, whose middle slice is looked at.
        config: Constants.

    References:
        Immerkær, "Fast noise variance estimation", Computer Vision and Image Understanding 1996.
    """
    slices, found = _slices(thumbnails), dict[str, Tensor]()
    for start in range(0, max(1, len(slices)), AT_ONCE):
        for name, values in _appearance(slices[start : start + AT_ONCE], config).items():
            # Into place at once: small tensors that stay would keep the large ones beside them from being freed.
            found.setdefault(name, values.new_empty(len(slices)))[start : start + AT_ONCE] = values
    return found


def _appearance(slices: Thumbnails, config: AppearanceConfig) -> dict[str, Float[Tensor, " n"]]:
    images = slices.double() / 255
    side = images.shape[-1]
    band, corner = max(1, round(config.margin * side)), max(2, round(config.corner * side))
    filled = (images > config.empty).double()
    share = filled.mean(dim=(1, 2)).clamp_min(1 / side**2)
    mean = (images * filled).mean(dim=(1, 2)) / share
    deviation = ((images - mean[:, None, None]).square() * filled).mean(dim=(1, 2)) / share
    return {
        "noise": _noise(images),
        "sharpness": _sharpness(images, config.blur),
        "contrast": deviation.sqrt(),
        "brightness": images.mean(dim=(1, 2)),
        "filled": filled.mean(dim=(1, 2)),
        "top margin": images[:, :band].mean(dim=(1, 2)),
        "bottom margin": images[:, -band:].mean(dim=(1, 2)),
        "left margin": images[:, :, :band].mean(dim=(1, 2)),
        "right margin": images[:, :, -band:].mean(dim=(1, 2)),
        "frame": _frame(images),
        "burnt-in text": _text(images, corner),
    }


def _slices(thumbnails: Thumbnails) -> Tensor:
    """Images as they are, of volumes the middle slice, `(n, side, side)`."""
    return thumbnails if thumbnails.ndim == 3 else thumbnails[:, thumbnails.shape[1] // 2]


def _noise(images: Tensor) -> Tensor:
    kernel = images.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    response = F.conv2d(images[:, None], kernel[None, None])
    return math.sqrt(math.pi / 2) / 6 * response.abs().mean(dim=(1, 2, 3))


def _sharpness(images: Tensor, blur: float) -> Tensor:
    fine, coarse = (_slopes(some) for some in (images, gaussian_blur(images, blur)))
    return torch.log((fine + 1e-9) / (coarse + 1e-9)).clamp_max(20.0)


def _slopes(images: Tensor) -> Tensor:
    along_y, along_x = torch.gradient(images, dim=(1, 2))
    return (along_y.square() + along_x.square()).mean(dim=(1, 2))


def _frame(images: Tensor) -> Tensor:
    inner = images[:, 1:-1, 1:-1]
    outer = images.shape[1] * images.shape[2] - inner.shape[1] * inner.shape[2]
    return (images.sum(dim=(1, 2)) - inner.sum(dim=(1, 2))) / outer


def _text(images: Tensor, corner: int) -> Tensor:
    variance = (box_mean(images.square(), 3) - box_mean(images, 3).square()).clamp_min(0)
    top, bottom, left, right = slice(0, corner), slice(-corner, None), slice(0, corner), slice(-corner, None)
    corners = [variance[:, rows, columns].mean(dim=(1, 2)) for rows in (top, bottom) for columns in (left, right)]
    return torch.stack(corners).amax(dim=0).sqrt()
