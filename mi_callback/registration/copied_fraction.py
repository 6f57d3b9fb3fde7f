"""How much of an image is a copy's: the structure that agrees with the match beyond what novel images show."""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.registration.config import LNCC_LEVELS, CopiedFractionConfig

COPIED_FRACTION = CopiedFractionConfig()
"""The constants of images and of volumes."""


def usual_shares(
    shares: Float[Tensor, "m levels"], weights: Float[Tensor, " m"], config: CopiedFractionConfig = COPIED_FRACTION
) -> Float[Tensor, " levels"]:
    """The share of structure that may agree by nature: a quantile over novel images, for each level of the LNCC.

    Args:
        shares: Share of the structure of each of m novel images whose LNCC with its match reaches each of
            `LNCC_LEVELS`.
        weights: How much each counts.
        config: Which quantile is usual.
    """
    ascending, order = shares.sort(dim=0)
    below = weights.to(shares)[order].cumsum(dim=0) / weights.sum()
    place = (below >= config.usual - 1e-9).int().argmax(dim=0, keepdim=True)
    return ascending.gather(0, place)[0]


def copied_fraction(
    shares: Float[Tensor, "n levels"],
    usual: Float[Tensor, " levels"] | None,
    config: CopiedFractionConfig = COPIED_FRACTION,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The share of its structure that an image must have copied, and the level where that shows.

    If a share f of the structure is a copy's and the rest agrees as is usual, a level that every copied place reaches
    is reached by s = f + (1 − f) u: f = (s − u) / (1 − u), the largest over the levels. It is 0 for novel images that
    agree as is usual at every level (somewhat fewer than the 95 % of each level), and smaller than the truth where a
    change of the copy (blur, another person's image over it) leaves places no more alike than strangers'.

    Args:
        shares: s, see `usual_shares`.
        usual: u, from novel images; None where none were aligned.
        config: Which levels say something.

    Returns:
        The share in [0, 1], larger for a larger part, and the LNCC from which a place is a copy's; 1 where the share is
        0. Without novel images both are NaN: unknown.

    References:
        Storey, "A direct approach to false discovery rates", JRSS B 2002 (the share of true nulls, by the same sum).
    """
    if usual is None:
        unknown = shares.new_full((len(shares),), float("nan"))
        return unknown, unknown
    rare = usual <= config.rare
    rare[-1] = True  # in data all alike the highest level is left
    excess = (shares[:, rare] - usual[rare]) / (1 - usual[rare]).clamp_min(1 - config.rare)
    # The highest level first: of a whole copy all are alike, and there least is by nature.
    share, place = excess.clamp_min(0).flip(1).max(dim=1)
    level = torch.tensor(LNCC_LEVELS, dtype=shares.dtype)[rare].flip(0)[place]
    return share, torch.where(share > 0, level, 1.0)
