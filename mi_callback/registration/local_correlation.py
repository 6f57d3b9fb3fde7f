"""Local normalised cross-correlation (LNCC): whose anatomy is this, whatever its contrast and brightness?"""

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from mi_callback.images.filters import apply_along_axes, box_mean

WINDOW = {2: 5, 3: 5}
"""Side, in pixels, of the neighbourhoods of the LNCC, by the number of dimensions."""

LEVELS = tuple(k / 200 for k in range(100, 200))
"""Levels of the LNCC at which it is counted how much structure reaches them: by .005, from .5."""

REGION, STEPS = 0.5, 12
"""Side of the regions of which the most similar one decides, as a share of the image's, and their steps along a side: a
copied part is a copy, too."""

LEAST_STRUCTURE = 0.25
"""Structure that a region must have to decide, relative to its share of the generated image's."""

MOST = 0.5
"""Structure that the overlap must have to decide as a whole, relative to the generated image's."""

STRUCTURE = 0.1
"""Standard deviation, in images in [0, 1], from which a window counts in full."""

NOISE = 0.005
"""Share of the variance that is never explained: two places that agree better than that agree alike."""


@dataclass(frozen=True)
class Agreement:
    """How well p pairs agree, place by place; maps `(p, 1, *spatial)`.

    Attributes:
        correlation: LNCC in [0, 1]; larger is closer.
        structure: How much each place counts, in [0, 1].
        overlap: 1 where both images are, 0 elsewhere.
        variances: Local variance of the generated and of the aligned image, `(p, 2, *spatial)`; never 0.
    """

    correlation: Tensor
    structure: Tensor
    overlap: Tensor
    variances: Tensor

    @property
    def map(self) -> Tensor:
        """LNCC, 0 outside the overlap."""
        return self.correlation * self.overlap

    def where(self, chosen: Tensor, other: "Agreement") -> "Agreement":
        """These pairs where `chosen`, `(p,)`, and those of the other elsewhere."""
        chosen = chosen.view(-1, *(1 for _ in self.structure.shape[1:]))
        maps = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Agreement(*(torch.where(chosen, ours, theirs) for ours, theirs in maps))

    def best(self, where: Tensor | None = None) -> Tensor:
        """LNCC of the region where it is largest, `(p,)`; of regions of the places where a map is 1, if one is given.

        The variance that one image leaves unexplained in the other, 1 − LNCC², is averaged geometrically over the
        windows, weighted by structure: a copy is close everywhere, and people who merely look alike differ somewhere.
        """
        over_regions = [_regions(side) for side in self.structure.shape[2:]]
        pooled = apply_along_axes(self._unexplained(where), over_regions)
        there, unexplained = pooled.flatten(2).unbind(dim=1)
        # Images without structure have none that decides.
        enough = there >= LEAST_STRUCTURE * self.structure.flatten(1).mean(dim=1).clamp_min(0.02)[:, None]
        mean = torch.where(enough, unexplained / there.clamp_min(1e-6), 0.0).amin(dim=1)
        return (1 - mean.exp()).clamp_min(0).sqrt()

    def overall(self) -> Tensor:
        """LNCC of the whole overlap, averaged likewise, `(p,)`; 0 where it has less than `MOST` of the structure."""
        there, unexplained = self._unexplained().flatten(2).sum(dim=2).unbind(dim=1)
        most = there >= MOST * self.structure.flatten(1).sum(dim=1).clamp_min(1e-6)
        return (1 - torch.where(most, unexplained / there.clamp_min(1e-6), 0.0).exp()).clamp_min(0).sqrt()

    def _unexplained(self, where: Tensor | None = None) -> Tensor:
        """How much each place counts, and that times the logarithm of the unexplained variance, `(p, 2, *spatial)`."""
        weight = self.structure * (self.overlap if where is None else self.overlap * where)
        return torch.cat([weight, weight * torch.log(1 - (1 - NOISE) * self.correlation.square().clamp_max(1))], dim=1)

    def shares(self) -> Tensor:
        """Share of the structure whose LNCC reaches each of `LEVELS`, `(p, levels)`."""
        levels = torch.tensor(LEVELS, dtype=self.correlation.dtype, device=self.correlation.device)
        reached = torch.bucketize(self.correlation, levels, right=True).flatten(1)
        # Whole numbers: their sums do not depend on the order, in which devices differ.
        all_, weight = ((1024 * m).round().long().flatten(1) for m in (self.structure, self.structure * self.overlap))
        counts = torch.zeros(len(reached), len(levels) + 1, dtype=torch.long, device=reached.device)
        counts = counts.scatter_add_(1, reached, weight).flip(1).cumsum(dim=1).flip(1)[:, 1:]
        return counts / all_.sum(dim=1, keepdim=True).clamp_min(1)


def local_correlation(generated: Tensor, aligned: Tensor, inside: Tensor) -> Agreement:
    """LNCC of images `(p, 1, *spatial)` in [0, 1] over windows that lie where `inside` is 1.

    Only its magnitude counts, so that neither local gain and offset nor an inverted contrast matter. Windows count by
    their standard deviation in the generated image, up to `STRUCTURE`: flat background, and noise in it, says nothing
    about whose anatomy this is.
    """
    dims = generated.ndim - 2
    maps = torch.cat([generated, aligned, generated.square(), aligned.square(), generated * aligned, inside], dim=1)
    means = box_mean(maps, WINDOW[dims], dims).unsqueeze(2)
    mean_g, mean_a, square_g, square_a, product, mean_inside = means.unbind(dim=1)
    var_g = (square_g - mean_g.square()).clamp_min(0)
    var_a = (square_a - mean_a.square()).clamp_min(0)
    # About one 8-bit quantisation step: less contrast than that is not structure.
    variances = torch.cat([var_g, var_a], dim=1) + 0.005**2
    correlation = (product - mean_g * mean_a).abs() / variances.prod(dim=1, keepdim=True).sqrt()
    overlap = (mean_inside > 0.99).float()
    structure = (var_g.sqrt() / STRUCTURE).clamp_max(1)
    return Agreement(correlation, structure, overlap, variances)


def detail_kept(fine: Agreement, coarse: Agreement) -> Tensor:
    """Fine detail of generated images relative to that of the aligned ones, `(p,)`: below 1 if they are blurred.

    Detail is the local variance after less blur divided by that after more, so that gain does not matter.

    Args:
        fine, coarse: How the same images agree after less blur and after more.
    """
    detail = coarse.structure * coarse.overlap * fine.variances / coarse.variances
    ours, theirs = (detail.flatten(2).sum(dim=2) + 1e-6).unbind(dim=1)
    return ours / theirs


@lru_cache
def _regions(side: int) -> Tensor:
    """Mean over each region along one side, `(regions, side)`."""
    width, step = int(REGION * side), max(1, side // STEPS)
    start = torch.arange(0, side - width + 1, step)[:, None]
    place = torch.arange(side)
    return ((place >= start) & (place < start + width)).float() / width
