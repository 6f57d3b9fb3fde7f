"""Local normalised cross-correlation (LNCC): whose anatomy is this, whatever its contrast and brightness?"""

import torch
from torch import Tensor

from mi_callback.smoothing import box_mean

WINDOW = 9
"""Side, in pixels, of the neighbourhoods of the LNCC."""

COPIED = 0.9
"""LNCC from which a neighbourhood counts towards the copied fraction."""


def local_correlation(generated: Tensor, aligned: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LNCC of images `(p, 1, h, w)` in [0, 1] over windows that lie where `inside` is 1.

    Windows count by their standard deviation in the generated image, up to 0.1: flat background, and noise in it,
    says nothing about whose anatomy this is.

    Returns:
        Weighted mean `(p,)`, weighted share of windows with LNCC ≥ `COPIED` `(p,)`, map `(p, 1, h, w)`.
    """
    maps = torch.cat([generated, aligned, generated.square(), aligned.square(), generated * aligned, inside], dim=1)
    mean_g, mean_a, square_g, square_a, product, mean_inside = box_mean(maps, WINDOW).unsqueeze(2).unbind(dim=1)
    var_g = (square_g - mean_g.square()).clamp_min(0)
    var_a = (square_a - mean_a.square()).clamp_min(0)
    floor = 0.005**2  # about one 8-bit quantisation step: less contrast than that is not structure
    correlation = (product - mean_g * mean_a) / ((var_g + floor) * (var_a + floor)).sqrt()
    overlap = (mean_inside > 0.99).float()
    weight = overlap * (var_g.sqrt() / 0.1).clamp_max(1)
    total = weight.sum(dim=(1, 2, 3)).clamp_min(1e-6)
    # Little overlap is little evidence: the score is damped when less than half of the structure is inside.
    structure = (var_g.sqrt() / 0.1).clamp_max(1).sum(dim=(1, 2, 3)).clamp_min(1e-6)
    trust = (2 * weight.sum(dim=(1, 2, 3)) / structure).clamp_max(1)
    score = trust * (weight * correlation).sum(dim=(1, 2, 3)) / total
    copied = (weight * (correlation >= COPIED)).sum(dim=(1, 2, 3)) / structure
    return score, copied, correlation * overlap
