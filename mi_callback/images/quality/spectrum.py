"""Radial power spectra of images, and filters of a gain at each spatial frequency."""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_callback.types import GreyImages


def radial_spectrum(images: GreyImages, bins: int) -> Float[Tensor, "n bins"]:
    """Mean power of each image in rings of spatial frequency, from 0 to the Nyquist frequency; float64.

    A Hann window keeps what lies at opposite borders from being taken for an edge. What lies beyond the Nyquist
    frequency, in the corners, counts in the last ring.

    Args:
        images: `(n, h, w)` or volumes `(n, d, h, w)`.
        bins: Number of rings of equal width.
    """
    images = images.double()
    dims = tuple(range(1, images.ndim))
    window = _window(tuple(images.shape[1:]))
    mean = (images * window).sum(dim=dims, keepdim=True) / window.sum()
    power = torch.fft.fftn((images - mean) * window, dim=dims).abs().square()
    ring = _rings(tuple(images.shape[1:]), bins).round().long().flatten()
    sums = power.new_zeros(len(images), bins).index_add_(1, ring, power.flatten(1))
    return sums / torch.bincount(ring, minlength=bins)


def white_power(sides: tuple[int, ...]) -> float:
    """What `radial_spectrum` says, in every ring, of noise of standard deviation 1 in images of these sides."""
    return float(_window(tuple(sides)).square().sum())


def filter_rings(images: GreyImages, gain: Float[Tensor, " bins"]) -> GreyImages:
    """Images with the amplitude of each ring of `radial_spectrum` multiplied by its gain, linear between rings.

    Beyond their borders images go on as in a mirror, so that nothing rings there.
    """
    sides = images.shape[1:]
    dims = tuple(range(1, images.ndim))
    margins = [side // 2 for side in sides]
    mirrored = images
    for dim, margin in zip(dims, margins, strict=True):
        mirrored = mirrored.index_select(dim, _mirrored(images.shape[dim], margin))
    wide = tuple(mirrored.shape[1:])
    ring = _rings(wide, len(gain))[..., : wide[-1] // 2 + 1]  # the others are those of a real image again
    below = ring.floor().long().clamp_max(len(gain) - 2)
    curve = torch.lerp(gain.double()[below], gain.double()[below + 1], ring - below).to(images.dtype)
    filtered = torch.fft.irfftn(torch.fft.rfftn(mirrored, dim=dims) * curve, s=wide, dim=dims)
    for dim, margin in zip(dims, margins, strict=True):
        filtered = filtered.narrow(dim, margin, images.shape[dim])
    return filtered


@lru_cache
def _window(sides: tuple[int, ...]) -> Float[Tensor, "*spatial"]:
    """The root of a Hann window along each axis."""
    window = torch.ones((), dtype=torch.float64)
    for side in sides:
        window = window[..., None] * torch.hann_window(side, periodic=False, dtype=torch.float64)
    return window.sqrt()


@lru_cache
def _rings(sides: tuple[int, ...], bins: int) -> Float[Tensor, "*spatial"]:
    """Position of each spatial frequency among the centres of the rings, in [0, bins − 1]."""
    square = torch.zeros((), dtype=torch.float64)
    for side in sides:
        square = square[..., None] + torch.fft.fftfreq(side, dtype=torch.float64).square()
    return (2 * bins * square.sqrt() - 0.5).clamp(0, bins - 1)


@lru_cache
def _mirrored(side: int, margin: int) -> Int[Tensor, " wide"]:
    """Pixels of a line that is continued beyond both ends as in a mirror."""
    place = torch.arange(-margin, side + margin).abs()
    return torch.where(place < side, place, 2 * (side - 1) - place)
