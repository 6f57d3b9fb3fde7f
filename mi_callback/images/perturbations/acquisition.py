"""Changes that a scanner makes: noise, blur, bias field, lower resolution."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.perturbations.strength import Strength, per_image, per_pixel, randn_like, rescale_to_one


def gaussian_noise(images: Tensor, sigma: Strength, generator: torch.Generator) -> Tensor:
    return (images + per_pixel(sigma, images) * randn_like(images.shape, images, generator)).clamp(0, 1)


def rician_noise(images: Tensor, sigma: Strength, generator: torch.Generator) -> Tensor:
    """Magnitude of complex Gaussian noise around the image, as in magnitude MRI (Gudbjartsson and Patz 1995)."""
    real = images + per_pixel(sigma, images) * randn_like(images.shape, images, generator)
    imaginary = per_pixel(sigma, images) * randn_like(images.shape, images, generator)
    return torch.hypot(real, imaginary).clamp(0, 1)


def blur(images: Tensor, sigma: Strength) -> Tensor:
    """Gaussian blur, `sigma` in pixels."""
    sigmas = per_image(sigma, len(images), images).clamp_min(1e-3)
    radius = max(1, math.ceil(3 * float(sigmas.max())))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-0.5 * (offsets / sigmas[:, None]) ** 2, dim=1)
    blurred = F.pad(images.transpose(0, 1), (radius,) * 4, mode="replicate")
    blurred = F.conv2d(blurred, kernel[:, None, None, :], groups=len(images))
    return F.conv2d(blurred, kernel[:, None, :, None], groups=len(images)).transpose(0, 1)


def bias_field(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Multiply by a smooth field, exp of noise on a 4×4 grid; `strength` is its standard deviation in log units."""
    coarse = randn_like((len(images), 1, 4, 4), images, generator)
    field = F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True)
    return rescale_to_one(images * torch.exp(per_pixel(strength, images) * field))


def low_resolution(images: Tensor, factor: float) -> Tensor:
    """Downsample by `factor` and back."""
    small = [max(2, round(side / factor)) for side in images.shape[-2:]]
    coarse = F.interpolate(images, small, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)


def k_space_truncation(images: Tensor, keep: Strength) -> Tensor:
    """Keep the central `keep` of each k-space axis: lower resolution with Gibbs ringing."""
    keep = per_pixel(keep, images)
    fy, fx = (torch.fft.fftfreq(side, device=images.device).abs() for side in images.shape[-2:])
    mask = (fy[:, None] <= keep / 2) & (fx[None, :] <= keep / 2)
    return torch.fft.ifft2(torch.fft.fft2(images) * mask).abs().clamp(0, 1)
