"""What somebody may do who has the detector: gradients of what it compares, and a search with its verdicts."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.encoders import build_encoder
from mi_callback.images.filters import gaussian_blur
from mi_callback.images.perturbations import PERTURBATIONS
from mi_callback.images.preprocessing import preprocess
from mi_callback.registration.config import registration_config
from mi_callback.registration.local_correlation import correlate_locally

STEPS, BUDGET, DISPLACEMENT, POINTS = 60, 8 / 255, 4.0, 12


class Likeness:
    """What the detector compares, summed up so that it has a gradient: larger is more like the copied images.

    Cosines of the layers of the encoder, and LNCC with and without blur in place: the copy lies where it should.
    """

    def __init__(self, copied: Tensor) -> None:
        self.copied, self.encoder = copied, build_encoder("bundled")
        self.config = registration_config(2).local_correlation
        with torch.no_grad():
            self.features = self._features(copied)

    def __call__(self, images: Tensor) -> Tensor:
        cosines = [F.cosine_similarity(ours, theirs).mean()
                   for ours, theirs in zip(self._features(images), self.features, strict=True)]  # fmt: skip
        return torch.stack(cosines).mean() + self._lncc(images, 0.0) + self._lncc(images, 1.0)

    def _features(self, images: Tensor) -> list[Tensor]:
        found = self.encoder(preprocess(images, self.encoder.size, self.encoder.channels, self.encoder.intensity))
        return list(found.values())

    def _lncc(self, images: Tensor, sigma: float) -> Tensor:
        ours, theirs = (gaussian_blur(x, sigma) if sigma else x for x in (images, self.copied))
        found = correlate_locally(ours, theirs, torch.ones_like(ours), self.config)
        return (found.correlation * found.structure).sum() / found.structure.sum()


def within_grey_values(copied: Tensor, budget: float = BUDGET, steps: int = STEPS) -> Tensor:
    """Projected gradient descent (Madry et al. 2018): grey values changed by at most `budget`."""
    likeness, change = Likeness(copied), torch.zeros_like(copied)
    for step in range(steps):
        change.requires_grad_()
        slope = _slope(likeness((copied + change).clamp(0, 1)), change)
        rate = 2.5 * budget / steps * (1 if step < steps * 0.7 else 0.4)
        change = (change.detach() - rate * slope.sign()).clamp(-budget, budget)
    return (copied + change).clamp(0, 1)


def within_warps(copied: Tensor, displacement: float = DISPLACEMENT, steps: int = STEPS) -> Tensor:
    """The same for a smooth warp: no pixel is moved by more than `displacement` pixels along an axis."""
    likeness, side = Likeness(copied), copied.shape[-1]
    generator = torch.Generator().manual_seed(0)
    knots = 0.1 * torch.randn(len(copied), 2, POINTS, POINTS, generator=generator)
    for _ in range(steps):
        knots.requires_grad_()
        slope = _slope(likeness(_warped(copied, knots, displacement, side)), knots)
        scale = slope.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        knots = (knots.detach() - 0.1 * slope / scale).clamp(-1, 1)
    return _warped(copied, knots, displacement, side)


def _slope(likeness: Tensor, of: Tensor) -> Tensor:
    """The gradient; 0 where there is none: a standard deviation has none where an image is flat."""
    return torch.autograd.grad(likeness, of)[0].nan_to_num(0.0)


def _warped(images: Tensor, knots: Tensor, displacement: float, side: int) -> Tensor:
    field = F.interpolate(knots, images.shape[-2:], mode="bilinear", align_corners=True)
    where = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    moved = where + field.permute(0, 2, 3, 1) * (2 * displacement / side)
    return F.grid_sample(images, moved, align_corners=False, padding_mode="border")


def searched(
    copied: Tensor, score: Callable[[Tensor], Tensor], limit: float, tries: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Search with the detector's answers: two changes drawn from `PERTURBATIONS` one after another, best of all tries.

    Args:
        score: Similarity that the detector returns; above `limit` an image is flagged.

    Returns:
        How similar the best try of each copy is, and after how many tries it first evaded (0: never).
    """
    generator, names = torch.Generator().manual_seed(seed), list(PERTURBATIONS)
    least = torch.full((len(copied),), torch.inf, dtype=torch.float64)
    evaded = torch.zeros(len(copied), dtype=torch.long)
    for attempt in range(1, tries + 1):
        tried = copied
        for k in torch.randint(len(names), (2,), generator=generator).tolist():
            tried = PERTURBATIONS[names[k]](tried, generator)
        found = score(tried).double()
        evaded[(found <= limit) & (evaded == 0)] = attempt
        least = torch.minimum(least, found)
    return least, evaded
