"""Local normalised cross-correlation (LNCC): whose anatomy is this, whatever its contrast and brightness?"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_callback.images.filters import box_mean
from mi_callback.registration.config import LocalCorrelationConfig


@dataclass(frozen=True)
class LocalCorrelation:
    """How well p pairs agree, place by place.

    Attributes:
        correlation: LNCC in [0, 1]; larger is closer.
        structure: How much each place counts, in [0, 1].
        overlap: 1 where both images are, 0 elsewhere.
        variances: Local variance of the generated and of the aligned image; never 0.
    """

    correlation: Float[Tensor, "p 1 *spatial"]
    structure: Float[Tensor, "p 1 *spatial"]
    overlap: Float[Tensor, "p 1 *spatial"]
    variances: Float[Tensor, "p 2 *spatial"]

    @property
    def map(self) -> Float[Tensor, "p 1 *spatial"]:
        """LNCC, 0 outside the overlap."""
        return self.correlation * self.overlap

    def where(self, chosen: Bool[Tensor, " p"], other: "LocalCorrelation") -> "LocalCorrelation":
        """These pairs where `chosen`, and those of the other elsewhere."""
        chosen = chosen.view(-1, *(1 for _ in self.structure.shape[1:]))
        maps = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return LocalCorrelation(*(torch.where(chosen, ours, theirs) for ours, theirs in maps))


def correlate_locally(
    generated: Float[Tensor, "p 1 *spatial"],
    aligned: Float[Tensor, "p 1 *spatial"],
    inside: Float[Tensor, "p 1 *spatial"],
    config: LocalCorrelationConfig,
) -> LocalCorrelation:
    """LNCC of images in [0, 1] over windows that lie where `inside` is 1.

    With means ⟨·⟩ over the window around a place, and ε² = `config.quantisation`²,

        LNCC = |⟨ga⟩ − ⟨g⟩⟨a⟩| / √((⟨g²⟩ − ⟨g⟩² + ε²) (⟨a²⟩ − ⟨a⟩² + ε²))

    Only its magnitude counts, so that neither local gain and offset nor an inverted contrast matter. Windows count by
    their standard deviation in the generated image, up to `config.full_structure`: flat background, and noise in it,
    says nothing about whose anatomy this is.

    References:
        Avants et al., "Symmetric diffeomorphic image registration with cross-correlation", MedIA 2008.
    """
    dims = generated.ndim - 2
    maps = torch.cat([generated, aligned, generated.square(), aligned.square(), generated * aligned, inside], dim=1)
    means = box_mean(maps, config.window, dims).unsqueeze(2)
    mean_g, mean_a, square_g, square_a, product, mean_inside = means.unbind(dim=1)
    var_g = (square_g - mean_g.square()).clamp_min(0)
    var_a = (square_a - mean_a.square()).clamp_min(0)
    variances = torch.cat([var_g, var_a], dim=1) + config.quantisation**2
    correlation = (product - mean_g * mean_a).abs() / variances.prod(dim=1, keepdim=True).sqrt()
    structure = (var_g.sqrt() / config.full_structure).clamp_max(1)
    return LocalCorrelation(correlation, structure, is_whole(mean_inside, dims, config).float(), variances)


def is_whole(share: Float[Tensor, "..."], dims: int, config: LocalCorrelationConfig) -> Bool[Tensor, "..."]:
    """Whether nothing is missing of windows of images or volumes of which this share is there: not one pixel."""
    return share > 1 - 0.5 / config.window**dims


def shares_by_level(found: LocalCorrelation, levels: tuple[float, ...]) -> Float[Tensor, "p levels"]:
    """Share of the structure of each generated image whose LNCC reaches each level, descending."""
    bounds = torch.tensor(levels, dtype=found.correlation.dtype, device=found.correlation.device)
    reached = torch.bucketize(found.correlation, bounds, right=True).flatten(1)
    # Whole numbers: their sums do not depend on the order, in which devices differ.
    maps = (found.structure, found.structure * found.overlap)
    whole, weight = ((1024 * structure).round().long().flatten(1) for structure in maps)
    counts = torch.zeros(len(reached), len(levels) + 1, dtype=torch.long, device=reached.device)
    counts = counts.scatter_add_(1, reached, weight).flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return counts / whole.sum(dim=1, keepdim=True).clamp_min(1)
