"""Changes that a scanner makes: noise, blur, bias field, lower resolution."""

import torch

from mi_callback.images.filters import gaussian_blur
from mi_callback.images.perturbations.strength import (
    Strength,
    draw_normal,
    draw_smooth,
    per_pixel,
    rescale_to_one,
)
from mi_callback.images.resizing import resize
from mi_callback.types import Images


def gaussian_noise(images: Images, sigma: Strength, generator: torch.Generator) -> Images:
    """x + σ n, clipped to [0, 1], with n standard normal in every pixel; σ of .01 is hardly seen, .1 is strong."""
    return (images + per_pixel(sigma, images) * draw_normal(images.shape, images, generator)).clamp(0, 1)


def rician_noise(images: Images, sigma: Strength, generator: torch.Generator) -> Images:
    """|x + σ (n₁ + i n₂)|, clipped to [0, 1]: what noise in both channels of the receiver makes of magnitude MRI.

    Where there is no signal it is Rayleigh noise, of mean σ √(π/2); where the signal is strong it is Gaussian.

    Args:
        images: In [0, 1].
        sigma: Standard deviation in each channel: .02 (a signal-to-noise ratio of 50) is a good scan, .1 a poor one.
        generator: Draws n₁ and n₂.

    References:
        Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", Magn. Reson. Med. 1995.
    """
    real = images + per_pixel(sigma, images) * draw_normal(images.shape, images, generator)
    imaginary = per_pixel(sigma, images) * draw_normal(images.shape, images, generator)
    return torch.hypot(real, imaginary).clamp(0, 1)


def blur(images: Images, sigma: Strength) -> Images:
    """Gaussian blur; `sigma` in pixels, 0 leaves the image as it is."""
    least = 1e-3  # a kernel of one pixel
    return gaussian_blur(images, sigma.clamp_min(least) if isinstance(sigma, torch.Tensor) else max(sigma, least))


def bias_field(images: Images, strength: Strength, generator: torch.Generator) -> Images:
    """x exp(s b), the brightest pixel scaled to 1: the shading of a receive coil.

    b is smooth: standard normal on a grid of 4 × 4 points, bicubically interpolated.

    Args:
        images: In [0, 1].
        strength: s, the standard deviation in log units: .1 to .3 is usual, 1 is extreme.
        generator: Draws b.

    References:
        Sled, Zijdenbos and Evans, "A nonparametric method for automatic correction of intensity nonuniformity in MRI
        data", IEEE TMI 1998 (the multiplicative, smooth field).
    """
    field = draw_smooth(len(images), 1, 4, images, generator)
    return rescale_to_one(images * torch.exp(per_pixel(strength, images) * field))


def low_resolution(images: Images, factor: float) -> Images:
    """Downsampled by `factor`, above 1, with antialiasing, and enlarged again, bilinearly."""
    small = [max(2, round(side / factor)) for side in images.shape[-2:]]
    return resize(resize(images, small), images.shape[-2:])


def k_space_truncation(images: Images, keep: Strength) -> Images:
    """The magnitude of an image whose outer k-space was not measured: lower resolution, with Gibbs ringing at edges.

    |F⁻¹ (1{|k_x| ≤ keep/2} 1{|k_y| ≤ keep/2} F x)|, clipped to [0, 1], with k in cycles per pixel.

    Args:
        images: In [0, 1].
        keep: Share of each axis of k-space that is measured, in (0, 1]: .5 is half the resolution.

    References:
        Czervionke et al., "Characteristic features of MR truncation artifacts", AJR 1988.
    """
    keep = per_pixel(keep, images)
    fy, fx = (torch.fft.fftfreq(side, device=images.device).abs() for side in images.shape[-2:])
    mask = (fy[:, None] <= keep / 2) & (fx[None, :] <= keep / 2)
    return torch.fft.ifft2(torch.fft.fft2(images) * mask).abs().clamp(0, 1)
