"""One LNCC for each pair: how the map of the local correlation decides whether it is the same anatomy.

What one image leaves unexplained of the other's variance, u = 1 − (1 − ν) LNCC², is averaged geometrically over a
region R, weighted by structure w:

    1 − LNCC(R)² = exp(Σ_R w log u / Σ_R w)

A copy is close everywhere, and people who merely look alike differ somewhere. ν, `DecisionConfig.unexplained`, keeps
places that agree perfectly from deciding alone.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.filters import apply_along_axes
from mi_callback.registration.config import DecisionConfig
from mi_callback.registration.local_correlation import LocalCorrelation

TIE = 1e-6
"""Shares of structure that differ by less are equal: where all places count in full, a region has exactly a quarter."""


def decide_lncc(
    best_fine: Float[Tensor, " p"], fine: LocalCorrelation, coarse: LocalCorrelation, config: DecisionConfig
) -> Float[Tensor, " p"]:
    """The LNCC of each pair, in fine or in coarse detail, where less stays unexplained, as much as that counts.

    A copy that lost its fine detail, and one that shares it with another image, are both copies. In fine detail it is
    less if the generated image lacks detail:

        1 − LNCC² = min(d (1 − LNCC_fine²), a (1 − LNCC_coarse²), b (1 − LNCC_overlap²))

    Args:
        best_fine: LNCC of the best region after less blur.
        fine, coarse: Local correlation after less blur and after more.
        config: The weights a, b (`coarse_region_weight`, `coarse_overlap_weight`) and d, which is how much less than
            `full_detail` the image kept (`detail_kept`), at least 1.

    Returns:
        In [0, 1]; larger is closer.
    """
    missing = (config.full_detail / detail_kept(fine, coarse)).clamp_min(1)
    weighted = (
        (best_fine, missing),
        (best_region_lncc(coarse, config), config.coarse_region_weight),
        (overlap_lncc(coarse, config), config.coarse_overlap_weight),
    )
    unexplained = torch.stack([weight * (1 - lncc.square()) for lncc, weight in weighted]).amin(dim=0)
    return (1 - unexplained).clamp_min(0).sqrt()


def best_region_lncc(
    found: LocalCorrelation, config: DecisionConfig, where: Float[Tensor, "p 1 *spatial"] | None = None
) -> Float[Tensor, " p"]:
    """LNCC(R) of the region R where it is largest; of regions of the places where a map is 1, if one is given.

    Regions with too little structure do not decide; where none has enough, as in images without structure, it is 0.
    """
    regions = [_regions(side, config.region, config.region_steps) for side in found.structure.shape[2:]]
    pooled = apply_along_axes(_weigh_unexplained(found, config, where), regions)
    weight, unexplained = pooled.flatten(2).unbind(dim=1)
    structure = found.structure.flatten(1).mean(dim=1).clamp_min(0.02)[:, None]
    enough = weight >= (config.least_in_region - TIE) * structure
    mean = torch.where(enough, unexplained / weight.clamp_min(1e-6), 0.0).amin(dim=1)
    return (1 - mean.exp()).clamp_min(0).sqrt()


def overlap_lncc(found: LocalCorrelation, config: DecisionConfig) -> Float[Tensor, " p"]:
    """LNCC(R) of the whole overlap R; 0 where it has less than `least_in_overlap` of the structure."""
    weight, unexplained = _weigh_unexplained(found, config).flatten(2).sum(dim=2).unbind(dim=1)
    enough = weight >= (config.least_in_overlap - TIE) * found.structure.flatten(1).sum(dim=1).clamp_min(1e-6)
    mean = torch.where(enough, unexplained / weight.clamp_min(1e-6), 0.0)
    return (1 - mean.exp()).clamp_min(0).sqrt()


def detail_kept(fine: LocalCorrelation, coarse: LocalCorrelation) -> Float[Tensor, " p"]:
    """Fine detail of generated images relative to that of the aligned ones: below 1 if they are blurred.

    Detail is the local variance after less blur divided by that after more, so that gain does not matter.

    Args:
        fine, coarse: How the same images agree after less blur and after more.
    """
    detail = coarse.structure * coarse.overlap * fine.variances / coarse.variances
    ours, theirs = (detail.flatten(2).sum(dim=2) + 1e-6).unbind(dim=1)
    return ours / theirs


def _weigh_unexplained(found: LocalCorrelation, config: DecisionConfig, where: Tensor | None = None) -> Tensor:
    """How much each place counts, w, and that times the logarithm of what stays unexplained: `(p, 2, *spatial)`."""
    weight = found.structure * (found.overlap if where is None else found.overlap * where)
    explained = (1 - config.unexplained) * found.correlation.square().clamp_max(1)
    return torch.cat([weight, weight * torch.log(1 - explained)], dim=1)


@lru_cache
def _regions(side: int, share: float, steps: int) -> Tensor:
    """Mean over each region along one side, `(regions, side)`."""
    width, step = int(share * side), max(1, side // steps)
    start = torch.arange(0, side - width + 1, step)[:, None]
    place = torch.arange(side)
    return ((place >= start) & (place < start + width)).float() / width
