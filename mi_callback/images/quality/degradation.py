"""Real images made as sharp and as noisy as the samples of a generator.

A similarity depends on how sharp and how noisy an image is: smooth images of strangers resemble training images more
than sharp ones do. What is said of samples is therefore compared with real images of their own quality. Blur, a lower
resolution, ringing and compression are, on average, a gain at each spatial frequency; noise is added.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.config import QUALITY, QualityConfig
from mi_callback.images.filters import gaussian_blur
from mi_callback.images.quality.spectrum import filter_rings, radial_spectrum, white_power
from mi_callback.types import GreyImages, Thumbnails

MEDIAN_TO_DEVIATION = 1.4826
"""Standard deviation of a normal variable over the median of its absolute values."""

MEDIAN_ERROR = 1.2533
"""Standard error of the median of a normal variable over that of the mean."""

VISIBLE = 0.1
"""Mean change of the gain, from a third to half of the Nyquist frequency, that is put into words."""


@dataclass(frozen=True)
class Degradation:
    """What makes real images as sharp and noisy as others.

    Attributes:
        gain: Of the amplitude at each ring of spatial frequency (`spectrum.radial_spectrum`); 1 changes nothing.
        noise: Standard deviation of the noise that is added, on the scale of images in [0, 1].
        gain_error: Standard error of the logarithm of the gain, for images differ among themselves.
        noise_error: Standard error of the noise.
    """

    gain: Float[Tensor, " bins"]
    noise: float
    gain_error: Float[Tensor, " bins"]
    noise_error: float

    def __str__(self) -> str:
        """In words: what becomes of sharpness and of noise."""
        fine = float(self.gain[len(self.gain) // 3 : len(self.gain) // 2].mean())  # noise hides what is finer
        words = ["blurred" if fine < 1 else "sharpened"] if abs(fine - 1) > VISIBLE else []
        words += ["made noisy"] if self.noise else []
        return " and ".join(words) or "given the spectrum of the samples"

    @classmethod
    def between(
        cls, real: Thumbnails, samples: Thumbnails, config: QualityConfig = QUALITY, start: "Quality | None" = None
    ) -> "Degradation":
        """What has to be done to real images for their median spectrum and noise to be those of samples.

        A fixed-point iteration: noise that a blur hides, and light that was cut off, are seen only once both are
        applied.

        Args:
            real: Real images or volumes, of any people.
            samples: Those of a generator, of the same size.
            config: Constants.
            start: Quality of the real images, where it was told before.
        """
        images, goal = _floats(real), Quality.told(samples, config)
        start = start or Quality.told(real, config)
        found = replace(
            cls.none(config),
            gain_error=0.5 * torch.hypot(start.power_error, goal.power_error),
            noise_error=math.hypot(start.noise_error, goal.noise_error),
        )
        seen, noise = start, start.noise
        for step in range(config.steps):
            if step > 0:
                seen, noise = found._seen(images, config)
            found = found._nearer(seen, noise, goal, config)
        return found

    def apply(self, thumbnails: Thumbnails, seed: int) -> Thumbnails:
        """Images so changed, as bytes."""
        filtered = filter_rings(_floats(thumbnails), self.gain)
        changed = self._with_noise(filtered, torch.Generator().manual_seed(seed))
        return changed.mul(255).round().to(torch.uint8)

    def differs(self, other: "Degradation", config: QualityConfig = QUALITY) -> bool:
        """Whether images changed by one are of visibly another quality than images changed by the other, beyond how
        images differ among themselves.
        """
        sure = config.sure
        change = (self.gain.log() - other.gain.log()).abs() - sure * torch.hypot(self.gain_error, other.gain_error)
        change = change * torch.maximum(self.gain, other.gain).clamp_max(1)  # what both take away is not seen
        noise = abs(self.noise - other.noise) - sure * math.hypot(self.noise_error, other.noise_error)
        return float(change[: config.compared].max()) > config.visible_gain or noise > config.visible_noise

    @classmethod
    def none(cls, config: QualityConfig = QUALITY) -> "Degradation":
        """The one that changes nothing."""
        one = torch.ones(config.rings, dtype=torch.float64)
        return cls(one, 0.0, 0 * one, 0.0)

    def _seen(self, images: Tensor, config: QualityConfig) -> tuple["Quality", float]:
        """Quality of images that were filtered, and their noise once noise is added too."""
        filtered = filter_rings(images, self.gain)
        clean = Quality.of(filtered.clamp(0, 1), config)
        if not self.noise:
            return clean, clean.noise
        return clean, float(_noise(self._with_noise(filtered, _fixed()), config).median())

    def _nearer(self, clean: "Quality", noisy: float, goal: "Quality", config: QualityConfig) -> "Degradation":
        """This one, corrected by what images that it changed still lack (`_seen`)."""
        noise = max(0.0, self.noise**2 + goal.noise**2 - noisy**2) ** 0.5
        noise = noise if noise > config.least_noise else 0.0
        # Without the power of noise that is added, which is that of the window at every frequency.
        wanted = goal.power - noise**2 * goal.noise_power
        change = 0.5 * (wanted.clamp_min(1e-12) / clean.power).log()
        change[: config.anatomy] = 0
        gain = (self.gain.log() + change).clamp(config.least_gain, config.most_gain).exp()
        # What noise hides has the gain of the last ring that can be seen.
        seen = wanted > config.least_signal * goal.power
        ring = torch.where(seen, torch.arange(len(seen)), 0).cummax(dim=0).values
        gain = gain[ring]
        return replace(self, gain=gain, noise=noise)

    def _with_noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Floats in [0, 1]."""
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, generator=generator)
        return images.clamp(0, 1)


@dataclass(frozen=True)
class Quality:
    """How sharp and noisy images are.

    Attributes:
        power: In each ring of spatial frequency, relative to that of the lowest, which show the anatomy: the median.
        noise: Standard deviation of noise, the median.
        noise_power: What noise of standard deviation 1 adds to `power`.
        power_error: Standard error of the logarithm of `power`.
        noise_error: Standard error of `noise`.
    """

    power: Float[Tensor, " bins"]
    noise: float
    noise_power: float
    power_error: Float[Tensor, " bins"]
    noise_error: float

    @classmethod
    def told(cls, thumbnails: Thumbnails, config: QualityConfig = QUALITY) -> "Quality":
        """That of thumbnails."""
        return cls.of(_floats(thumbnails), config)

    @classmethod
    def of(cls, images: GreyImages, config: QualityConfig) -> "Quality":
        """That of images in [0, 1]."""
        spectrum = radial_spectrum(images, config.rings)
        lowest = spectrum[:, 1 : config.anatomy].sum(dim=1, keepdim=True).clamp_min(1e-12)
        power, noise = (spectrum / lowest).clamp_min(1e-12), _noise(images, config)
        white = white_power(images.shape[1:])
        errors = _error(power.log()), float(_error(noise))
        return cls(power.median(dim=0).values, float(noise.median()), float(white / lowest.median()), *errors)


def _noise(images: GreyImages, config: QualityConfig) -> Float[Tensor, " n"]:
    """Standard deviation of noise where an image is not empty; 0 for an image that is.

    Of differences along all axes the median size is looked at: edges are few.
    """
    dims, fine = images.ndim - 1, images
    for dim in range(1, images.ndim):
        fine = fine.diff(dim=dim) / 2**0.5
    filled = gaussian_blur(images, config.around, dims) > config.empty
    filled = filled[(slice(None), *(slice(1, None),) * dims)]
    both = zip(fine.abs(), filled, strict=True)
    sizes = [size[kept].median() if kept.any() else size.new_zeros(()) for size, kept in both]
    return MEDIAN_TO_DEVIATION * torch.stack(sizes)


def _error(values: Tensor) -> Tensor:
    """Standard error of the median over images, as that of a normal variable."""
    return MEDIAN_ERROR * values.std(dim=0, correction=0) / len(values) ** 0.5


def _floats(thumbnails: Thumbnails) -> Tensor:
    return thumbnails.float() / 255


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
