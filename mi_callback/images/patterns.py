"""Periodic patterns laid over images: lone peaks of the spectrum, which anatomy does not have, are taken out.

Stripes and grids hide a copy: local correlation sees them, not what is below. Some come from an adversary, some from
scanners (spikes in k-space) and upsampling layers.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.images.config import PATTERN
from mi_callback.images.filters import apply_along_axes, gaussian_blur
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, as_images, make_thumbnails
from mi_callback.types import Images, Thumbnails


def without_patterns(images: Images) -> tuple[Images, Thumbnails]:
    """Images less the periodic patterns laid over them, which would hide what they copy, and their thumbnails.

    Volumes, images of several channels and small ones are left as they came.
    """
    side = THUMBNAIL_SIDE[images.ndim - 2]
    thumbnails = make_thumbnails(images, side)
    if images.ndim == 5 or images.shape[1] > 1 or min(images.shape[2:]) < PATTERN.least_side:
        return images, thumbnails
    striped = patterned(thumbnails)
    if bool(striped.any()):
        images = images.clone()
        images[striped] = torch.cat([without_pattern(image) for image in images[striped].split(1)])
        thumbnails[striped] = make_thumbnails(images[striped], side)
    return images, thumbnails


def patterned(thumbnails: Thumbnails) -> Bool[Tensor, " n"]:
    """Which images bear a pattern, as their thumbnails `(n, h, w)` show it."""
    found = _Spectrum.of(as_images(thumbnails))
    return ((found.prominence > PATTERN.found) & (found.amplitude > _visible(*thumbnails.shape[-2:]))).any(dim=(1, 2))


def without_pattern(image: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
    """An image less its waves, the most prominent first, in rounds.

    A wave is taken out as strong as it is around every pixel, within about `PATTERN.local` pixels: it may fade. Where
    all waves together are thin lines, what lies between these is as it came, and they are filled from there.
    """
    rest = image
    for _ in range(PATTERN.rounds):
        waves = _waves(_Spectrum.of(rest))
        if not waves:
            break
        deviation = rest - gaussian_blur(rest, PATTERN.local)
        rest = rest - sum(_locally(deviation, wave) for wave in waves)
    lines = _lines(image - rest)
    return rest if lines is None else torch.where(lines, _filled(image, ~lines), image)


class _Spectrum(NamedTuple):
    """What images are made of, by frequency; the zero frequency is at `(h // 2, w // 2)`.

    Attributes:
        prominence: By how much the logarithm of the amplitude exceeds that of the frequencies around; −infinity for low
            ones.
        amplitude: Of a wave, in standard deviations of the image.
    """

    prominence: Float[Tensor, "n h w"]
    amplitude: Float[Tensor, "n h w"]

    @classmethod
    def of(cls, images: Images) -> "_Spectrum":
        """Of images under a taper, so that their borders do not count."""
        height, width = images.shape[-2:]
        taper, slow = _taper(height, width).to(images), _slow(height, width, PATTERN.slow).to(images.device)
        deviation = images[:, 0] - images[:, 0].mean(dim=(1, 2), keepdim=True)
        size = torch.fft.fftshift(torch.fft.fft2(deviation * taper), dim=(-2, -1)).abs()
        power = size.clamp_min(torch.finfo(images.dtype).tiny).log()
        unit = deviation.flatten(1).std(dim=1).clamp_min(1e-12).view(-1, 1, 1) * taper.sum() / 2
        return cls((power - _around(power)).masked_fill(slow, -math.inf), size / unit)


def _visible(height: int, width: int) -> Float[Tensor, "h w"]:
    """Amplitude from which a wave is a pattern: vertebrae make slow ones of some strength."""
    slow = _slow(height, width, PATTERN.repeated)
    return torch.where(slow, PATTERN.visible_slow, PATTERN.visible)


def _around(power: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Mean of the ring around each frequency, outside of the main lobe of the taper."""
    sides = power.shape[-2:]
    whole, lobe = 2 * PATTERN.ring + 1, 2 * PATTERN.lobe + 1
    outer, inner = (apply_along_axes(power, [_circular_sum(side, n) for side in sides]) for n in (whole, lobe))
    return (outer - inner) / (whole**2 - lobe**2)


def _lines(pattern: Float[Tensor, "1 1 h w"]) -> Bool[Tensor, "1 1 h w"] | None:
    """Where the lines of a pattern are, if it is one of thin lines: few pixels far to one side; else None."""
    relative = pattern / gaussian_blur(pattern.square(), PATTERN.local).sqrt().clamp_min(1e-12)
    skewness = float(relative.pow(3).mean())
    return relative * math.copysign(1, skewness) > 1 if abs(skewness) > PATTERN.thin else None


def _filled(image: Float[Tensor, "1 1 h w"], known: Bool[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
    """Mean of the known pixels next to each one."""
    weight = gaussian_blur(known.to(image), PATTERN.fill)
    return gaussian_blur(image * known, PATTERN.fill) / weight.clamp_min(1e-12)


class _Wave(NamedTuple):
    """Cycles per pixel."""

    vertical: float
    horizontal: float

    @property
    def is_its_conjugate(self) -> bool:
        return (2 * self.vertical) % 1 == 0 and (2 * self.horizontal) % 1 == 0

    def merged(self) -> "_Wave":
        """Where wave and conjugate are too close to be told apart, what lies between them."""
        twice = [2 * self.vertical, 2 * self.horizontal]
        if max(abs(cycles - round(cycles)) for cycles in twice) >= PATTERN.apart:
            return self
        return _Wave(*(round(cycles) % 2 / 2 for cycles in twice))


def _waves(spectrum: _Spectrum) -> list[_Wave]:
    """Waves that stand out, each the highest far and wide: no two of them share what is taken out."""
    found = spectrum.prominence.masked_fill(spectrum.amplitude < PATTERN.faint, -math.inf)
    height, width = found.shape[-2:]
    reach = round(PATTERN.apart * max(height, width))
    around = F.pad(found[None], (reach,) * 4, mode="circular")
    highest = F.max_pool2d(around, 2 * reach + 1, stride=1)[0]
    peaks = (found == highest) & (found > PATTERN.also) & _half(height, width).to(found.device)
    waves = [_Wave((y - height // 2) / height, (x - width // 2) / width) for y, x in peaks[0].nonzero().tolist()]
    return list(dict.fromkeys(wave.merged() for wave in waves))


def _locally(deviation: Float[Tensor, "1 1 h w"], wave: _Wave) -> Float[Tensor, "1 1 h w"]:
    """What an image of local mean 0 has of a wave, around every pixel."""
    height, width = deviation.shape[-2:]
    y, x = torch.arange(height).to(deviation)[:, None], torch.arange(width).to(deviation)
    phase = 2 * math.pi * (wave.vertical * y + wave.horizontal * x)
    cosine, sine = (gaussian_blur(deviation * part, PATTERN.local) for part in (phase.cos(), phase.sin()))
    half = cosine * phase.cos() + sine * phase.sin()
    return half if wave.is_its_conjugate else 2 * half


@lru_cache
def _taper(height: int, width: int) -> Float[Tensor, "h w"]:
    return torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)


@lru_cache
def _circular_sum(side: int, window: int) -> Float[Tensor, "side side"]:
    """Sum of the values of a circle around each one."""
    away = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    return (torch.minimum(away, side - away) <= window // 2).float()


@lru_cache
def _slow(height: int, width: int, most: float) -> Bool[Tensor, "h w"]:
    """Frequencies of at most so many cycles per pixel."""
    y, x = _cycles(height, width)
    return (y / height).square() + (x / width).square() <= most**2


@lru_cache
def _half(height: int, width: int) -> Bool[Tensor, "h w"]:
    """One frequency of each conjugate pair: a real image has both or neither."""
    y, x = _cycles(height, width)
    own = (y == 0) | (2 * y == -height)  # rows that hold their own conjugates
    return (y > 0) & ~own | own & ((x >= 0) | (2 * x == -width))


def _cycles(height: int, width: int) -> tuple[Int[Tensor, "h 1"], Int[Tensor, " w"]]:
    """Cycles along an image, as the frequencies lie in a shifted spectrum."""
    return torch.arange(height)[:, None] - height // 2, torch.arange(width) - width // 2
