"""What can be done to a copy: named changes with fixed strength, batched, on images in [0, 1].

Each function takes images `(n, 1, h, w)` in [0, 1] and returns the same; of several channels each is changed alike. A
strength is a float or a tensor `(n,)` (one per image). What is random takes a `torch.Generator`. `PERTURBATIONS`
names the changes with which detection is tested; every image is changed (no coin flips), so a measured power is the
power for that change.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.contrast_curves import apply_curve

Strength = float | Tensor
Perturbation = Callable[[Tensor, torch.Generator], Tensor]
Paste = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def affine(
    images: Tensor,
    rotation: Strength = 0.0,
    scale_x: Strength = 1.0,
    scale_y: Strength = 1.0,
    shift_x: Strength = 0.0,
    shift_y: Strength = 0.0,
    shear: Strength = 0.0,
) -> Tensor:
    """Turn by `rotation` degrees, magnify by `scale`, move by `shift` (share of the side); empty borders are 0."""
    n = len(images)
    angle, sx, sy, dx, dy, k = (_per_image(v, n, images) for v in (rotation, scale_x, scale_y, shift_x, shift_y, shear))
    cos, sin = torch.cos(angle * math.pi / 180), torch.sin(angle * math.pi / 180)
    # In the normalised coordinates of affine_grid one unit is half a side: a rotation must know how sides compare.
    aspect = images.shape[-2] / images.shape[-1]
    # affine_grid maps output to input, hence the inverse magnification and the minus before the shift.
    rows = (
        torch.stack([cos / sx, (sin + k) * aspect / sx, -2 * dx], dim=1),
        torch.stack([-sin / aspect / sy, cos / sy, -2 * dy], dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def flip_horizontal(images: Tensor) -> Tensor:
    return images.flip(-1)


def flip_vertical(images: Tensor) -> Tensor:
    return images.flip(-2)


def crop(images: Tensor, keep: Strength) -> Tensor:
    """Keep the central `keep` of each side, enlarged to the old size."""
    return affine(images, scale_x=1 / keep, scale_y=1 / keep)


def intensity(images: Tensor, factor: Strength) -> Tensor:
    return (images * _column(factor, images)).clamp(0, 1)


def gamma(images: Tensor, exponent: Strength) -> Tensor:
    return images.clamp(0, 1) ** _column(exponent, images)


def gaussian_noise(images: Tensor, sigma: Strength, generator: torch.Generator) -> Tensor:
    return (images + _column(sigma, images) * _randn(images.shape, images, generator)).clamp(0, 1)


def rician_noise(images: Tensor, sigma: Strength, generator: torch.Generator) -> Tensor:
    """Magnitude of complex Gaussian noise around the image, as in magnitude MRI (Gudbjartsson and Patz 1995)."""
    real = images + _column(sigma, images) * _randn(images.shape, images, generator)
    imaginary = _column(sigma, images) * _randn(images.shape, images, generator)
    return torch.hypot(real, imaginary).clamp(0, 1)


def blur(images: Tensor, sigma: Strength) -> Tensor:
    """Gaussian blur, `sigma` in pixels."""
    sigmas = _per_image(sigma, len(images), images).clamp_min(1e-3)
    radius = max(1, math.ceil(3 * float(sigmas.max())))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-0.5 * (offsets / sigmas[:, None]) ** 2, dim=1)
    blurred = F.pad(images.transpose(0, 1), (radius,) * 4, mode="replicate")
    blurred = F.conv2d(blurred, kernel[:, None, None, :], groups=len(images))
    return F.conv2d(blurred, kernel[:, None, :, None], groups=len(images)).transpose(0, 1)


def bias_field(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Multiply by a smooth field, exp of noise on a 4×4 grid; `strength` is its standard deviation in log units."""
    coarse = _randn((len(images), 1, 4, 4), images, generator)
    field = F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True)
    return _rescale(images * torch.exp(_column(strength, images) * field))


def low_resolution(images: Tensor, factor: float) -> Tensor:
    """Downsample by `factor` and back."""
    small = [max(2, round(side / factor)) for side in images.shape[-2:]]
    coarse = F.interpolate(images, small, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)


def k_space_truncation(images: Tensor, keep: Strength) -> Tensor:
    """Keep the central `keep` of each k-space axis: lower resolution with Gibbs ringing."""
    keep = _column(keep, images)
    fy, fx = (torch.fft.fftfreq(side, device=images.device).abs() for side in images.shape[-2:])
    mask = (fy[:, None] <= keep / 2) & (fx[None, :] <= keep / 2)
    return torch.fft.ifft2(torch.fft.fft2(images) * mask).abs().clamp(0, 1)


def elastic(images: Tensor, pixels: Strength, generator: torch.Generator) -> Tensor:
    """Smooth random warp from displacements on a 6×6 grid; `pixels` is their standard deviation."""
    h, w = images.shape[-2:]
    coarse = _randn((len(images), 2, 6, 6), images, generator) * _column(pixels, images)
    flow = F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    flow = flow * flow.new_tensor([2 / w, 2 / h])
    identity = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
    grid = F.affine_grid(identity, list(images.shape), align_corners=False) + flow
    return F.grid_sample(images, grid, align_corners=False)


def invert(images: Tensor) -> Tensor:
    return 1 - images


def remap(images: Tensor, generator: torch.Generator, knots: int = 5) -> Tensor:
    """Another contrast: grey values through a random piecewise linear curve that need not rise. Black stays black."""
    values = torch.rand((len(images), knots), generator=generator, device=generator.device).to(images)
    return _rescale(apply_curve(images, torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)))


def t2_like(images: Tensor) -> Tensor:
    """T1 made to look like T2: fluid, which is dark, becomes brightest, white matter darker than grey; black stays."""
    values = torch.tensor([0.0, 0.6, 1.0, 0.85, 0.7, 0.55, 0.48, 0.42, 0.38, 0.5, 0.6])
    return apply_curve(images, values.to(images).expand(len(images), -1))


def blend(images: Tensor, others: Tensor, share: Strength) -> Tensor:
    """Mix in `share` of another image."""
    return torch.lerp(images, others, _column(share, images))


def paste(images: Tensor, others: Tensor, share: Strength, generator: torch.Generator) -> Tensor:
    """Replace `share` of the area by that part of another image: a band at one of the four sides, hard-edged."""
    n, _, h, w = images.shape
    side = torch.randint(4, (n,), generator=generator, device=generator.device).to(images.device)
    y = (torch.arange(h, device=images.device) + 0.5)[:, None].expand(h, w) / h
    x = (torch.arange(w, device=images.device) + 0.5).expand(h, w) / w
    depth = torch.stack([x, 1 - x, y, 1 - y])[side][:, None]
    return torch.where(depth < _column(share, images), others, images)


def implant(images: Tensor, others: Tensor, share: float = 0.5) -> Tensor:
    """Another image with the centre of this one in its place: a window of `share` of the sides."""
    h, w = images.shape[-2:]
    high, wide = round(share * h), round(share * w)
    top, left = (h - high) // 2, (w - wide) // 2
    place = (..., slice(top, top + high), slice(left, left + wide))
    received = others.clone()
    received[place] = images[place]
    return received


PERTURBATIONS: dict[str, Perturbation] = {
    "exact": lambda x, g: x,
    "noise_0.01": lambda x, g: gaussian_noise(x, 0.01, g),
    "noise_0.02": lambda x, g: gaussian_noise(x, 0.02, g),
    "intensity_0.9": lambda x, g: intensity(x, 0.9),
    "intensity_1.1": lambda x, g: intensity(x, 1.1),
    "rotation_5": lambda x, g: affine(x, rotation=5.0),
    "flip_horizontal": lambda x, g: flip_horizontal(x),
    "flip_vertical": lambda x, g: flip_vertical(x),
    "crop_0.9": lambda x, g: crop(x, 0.9),
    "shift_0.1": lambda x, g: affine(x, shift_x=0.1, shift_y=0.1),
    "rotation_15": lambda x, g: affine(x, rotation=15.0),
    "gamma_0.7": lambda x, g: gamma(x, 0.7),
    "gamma_1.4": lambda x, g: gamma(x, 1.4),
    "blur_1": lambda x, g: blur(x, 1.0),
    "bias_field": lambda x, g: bias_field(x, 0.3, g),
    "half_resolution": lambda x, g: low_resolution(x, 2.0),
    "elastic_2": lambda x, g: elastic(x, 2.0, g),
    "combined": lambda x, g: gaussian_noise(
        intensity(affine(flip_horizontal(x), rotation=10.0, scale_x=1.1, scale_y=1.1), 0.9), 0.02, g
    ),
    "rotation_30": lambda x, g: affine(x, rotation=30.0),
    "quarter_turn": lambda x, g: torch.rot90(x, 1, (-2, -1)),
    "crop_0.7": lambda x, g: crop(x, 0.7),
    "inverted": lambda x, g: invert(x),
    "t2_like": lambda x, g: t2_like(x),
}
"""Name → change. The first eight are of the kind the paper tests; the rest are what leaked copies look like."""

PASTES: dict[str, Paste] = {
    "blend_0.3": lambda x, others, g: blend(x, others, 0.3),
    "half_pasted": lambda x, others, g: paste(x, others, 0.5, g),
    "quarter_pasted": lambda x, others, g: implant(x, others, 0.5),
}
"""Name → change that needs images of other people: mixed in, or those into which a part of the copy is pasted."""


def in_planes(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A change of images as one of volumes `(n, c, d, h, w)`: every slice alike, noise apart."""

    def changed(*arguments: Tensor | torch.Generator) -> Tensor:
        (channels, depth), *_ = (a.shape[1:3] for a in arguments if isinstance(a, Tensor))
        slices = change(*(a.flatten(1, 2) if isinstance(a, Tensor) else a for a in arguments))
        return slices.unflatten(1, (channels, depth))

    return changed


def about_every_axis(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A change of images as one of volumes, made in the slices along each of the three axes, one after the other."""

    def changed(volumes: Tensor, generator: torch.Generator) -> Tensor:
        for _ in range(3):
            volumes = in_planes(change)(volumes, generator).permute(0, 1, 4, 2, 3)
        return volumes

    return changed


VOLUME_PERTURBATIONS: dict[str, Perturbation] = {
    name: about_every_axis(change) if name == "rotation_5" else in_planes(change)
    for name, change in PERTURBATIONS.items()
    # Quarter turns are not among the poses of volumes, and their sides have half as many pixels.
    if name not in ("quarter_turn", "rotation_30", "elastic_2")
} | {
    "flip_depth": lambda x, g: x.flip(-3),
    "elastic_1": about_every_axis(lambda x, g: elastic(x, 0.7, g)),  # two displacements along each axis add up
}
"""The same for volumes. Rotations by 5° and elastic warps are about every axis; other changes are in the last two."""

VOLUME_PASTES: dict[str, Paste] = {name: in_planes(change) for name, change in PASTES.items()}


def changes_of(dims: int) -> tuple[dict[str, Perturbation], dict[str, Paste]]:
    """Changes, and pastes, of images (2) or volumes (3)."""
    return (PERTURBATIONS, PASTES) if dims == 2 else (VOLUME_PERTURBATIONS, VOLUME_PASTES)


def _per_image(value: Strength, n: int, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(n)


def _column(value: Strength, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)


def _randn(shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn where the generator lives, so that one seed gives one result on every device.
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _rescale(images: Tensor) -> Tensor:
    return images / images.flatten(1).amax(dim=1).clamp_min(1e-6).view(-1, 1, 1, 1)
