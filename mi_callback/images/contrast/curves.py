"""The training image as another contrast curve would show it: T1 made to look like T2 is still that patient.

A curve maps grey values to grey values and need not rise. Local correlation looks through any gain and offset of a few
pixels, but not through a curve that bends within them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.images.config import CURVES
from mi_callback.images.filters import standardise
from mi_callback.types import Images

UNIT = 2**30
"""Sums over an image are of multiples of one part in so many: whole numbers, whose sums no order of adding changes."""


def fit_curve(
    images: Float[Tensor, "p 1 *spatial"], like: Float[Tensor, "p 1 *spatial"], weight: Float[Tensor, "p 1 *spatial"]
) -> Float[Tensor, "p knots"]:
    """The curve under which images come closest to others, by least squares with a penalty on its bends.

    Args:
        images: In [0, 1], as the curve takes them.
        like: In [0, 1], what the curve should make of them.
        weight: How much each place counts.

    Returns:
        Grey values at `CURVES.knots` knots, for `apply_curve`.

    References:
        Roche et al., "The correlation ratio as a new similarity measure for multimodal image registration", MICCAI
        1998 (one image explained as any function of the other's grey values).
    """
    knots = CURVES.knots
    left, share = _between_knots(images, knots)
    weight, like = weight.flatten(1), like.flatten(1)
    low, high = weight * (1 - share), weight * share
    # Every place lies between two knots: of the normal equations only the diagonal and those beside it are filled.
    terms = torch.stack([low * (1 - share), low * share, high * share, low * like, high * like], dim=1)
    before, across, after, from_left, from_right = _sum_by_knot(terms, left, knots).unbind(dim=1)
    matrix = torch.diag_embed(F.pad(before, (0, 1)) + F.pad(after, (1, 0)))
    matrix = matrix + torch.diag_embed(across, 1) + torch.diag_embed(across, -1)
    total = weight.sum(dim=1).clamp_min(1.0)[:, None, None]
    wanted = F.pad(from_left, (0, 1)) + F.pad(from_right, (1, 0))
    return torch.linalg.solve(matrix + CURVES.stiffness * total * _bending(knots).to(matrix), wanted).to(images)


def apply_curve(images: Images, curve: Float[Tensor, "n knots"]) -> Images:
    """Images in [0, 1] under curves of any number of knots, kept in that range; linear between knots."""
    left, share = _between_knots(images, curve.shape[1])
    return torch.lerp(curve.gather(1, left), curve.gather(1, left + 1), share).clamp(0, 1).view_as(images)


def identity_curve(like: Tensor) -> Float[Tensor, " knots"]:
    """The curve that leaves images as they are, where `like` is."""
    return torch.linspace(0, 1, CURVES.knots).to(like)


def look_alike(images: Float[Tensor, "p 1 *spatial"], recoloured: Float[Tensor, "p 1 *spatial"]) -> Bool[Tensor, " p"]:
    """Whether a curve left images much as they were, but for gain and offset."""
    ours, theirs = (standardise(image, torch.ones_like(image)).flatten(1) for image in (images, recoloured))
    return (ours * theirs).mean(dim=1) > CURVES.same


def _between_knots(images: Images, knots: int) -> tuple[Int[Tensor, "n pixels"], Float[Tensor, "n pixels"]]:
    """The knot to the left of each value, and how far to the next one it is."""
    place = images.flatten(1).clamp(0, 1) * (knots - 1)
    left = place.long().clamp_max(knots - 2)
    return left, place - left


def _sum_by_knot(
    terms: Float[Tensor, "p terms pixels"], left: Int[Tensor, "p pixels"], knots: int
) -> Float[Tensor, "p terms knots-1"]:
    """Sums over the places whose value lies right of each knot. Devices add in different orders: in whole numbers."""
    sums = terms.new_zeros(*terms.shape[:2], knots - 1, dtype=torch.long)
    whole = (terms * UNIT).round().long()
    return sums.scatter_add_(2, left[:, None].expand_as(terms), whole).double() / UNIT


def _bending(knots: int) -> Float[Tensor, "knots knots"]:
    """Quadratic form of the second differences of a curve; a little of its size keeps the equations solvable."""
    bends = torch.eye(knots).diff(n=2, dim=0).double()
    return bends.T @ bends + 1e-3 * torch.eye(knots).double()
