"""The training image as another contrast curve would show it: T1 made to look like T2 is still that patient.

A curve maps grey values to grey values and need not rise. Local correlation looks through any gain and offset of a few
pixels, but not through a curve that bends within them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.filters import standardise

KNOTS = 17
"""Knots of a curve, evenly spread over the grey values; linear between them."""

STIFFNESS = 1e-3
"""Weight of the penalty on bends, relative to the data: grey values that hardly occur follow their neighbours."""

UNIT = 2**30
"""Sums over an image are of multiples of one part in so many."""

SAME = 0.95
"""Correlation of an image with what a curve made of it, from which both show the same contrast."""


def fit_curve(images: Tensor, like: Tensor, weight: Tensor) -> Tensor:
    """The curve under which images come closest to others, by least squares: `(p, KNOTS)`.

    Args:
        images, like: `(p, 1, *spatial)` in [0, 1].
        weight: How much each place counts, of the same shape.

    References:
        Roche et al., "The correlation ratio as a new similarity measure for multimodal image registration", MICCAI
        1998 (one image explained as any function of the other's grey values).
    """
    left, share = _between_knots(images, KNOTS)
    weight, like = weight.flatten(1), like.flatten(1)
    low, high = weight * (1 - share), weight * share
    # Every place lies between two knots: of the normal equations only the diagonal and those beside it are filled.
    terms = torch.stack([low * (1 - share), low * share, high * share, low * like, high * like], dim=1)
    sums = terms.new_zeros(len(terms), 5, KNOTS - 1, dtype=torch.long)
    # Whole numbers: their sums do not depend on the order, in which devices differ.
    sums = sums.scatter_add_(2, left[:, None].expand_as(terms), (terms * UNIT).round().long()).double() / UNIT
    before, across, after, from_left, from_right = sums.unbind(dim=1)
    matrix = torch.diag_embed(F.pad(before, (0, 1)) + F.pad(after, (1, 0)))
    matrix = matrix + torch.diag_embed(across, 1) + torch.diag_embed(across, -1)
    bends = torch.eye(KNOTS).diff(n=2, dim=0).to(matrix)
    stiff = bends.T @ bends + 1e-3 * torch.eye(KNOTS).to(matrix)
    total = weight.sum(dim=1).clamp_min(1.0)[:, None, None]
    wanted = F.pad(from_left, (0, 1)) + F.pad(from_right, (1, 0))
    return torch.linalg.solve(matrix + STIFFNESS * total * stiff, wanted).to(images)


def apply_curve(images: Tensor, curve: Tensor) -> Tensor:
    """Images `(p, c, *spatial)` in [0, 1] under curves of any number of knots, `(p, knots)`, kept in that range."""
    left, share = _between_knots(images, curve.shape[1])
    return torch.lerp(curve.gather(1, left), curve.gather(1, left + 1), share).clamp(0, 1).view_as(images)


def identity_curve(like: Tensor) -> Tensor:
    """The curve that leaves images as they are, `(KNOTS,)`, where `like` is."""
    return torch.linspace(0, 1, KNOTS).to(like)


def look_alike(images: Tensor, recoloured: Tensor) -> Tensor:
    """Whether a curve left images `(p, 1, *spatial)` much as they were, but for gain and offset: `(p,)`."""
    ours, theirs = (standardise(image, torch.ones_like(image)).flatten(1) for image in (images, recoloured))
    return (ours * theirs).mean(dim=1) > SAME


def _between_knots(images: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """The knot to the left of each value, and how far to the next one it is: `(p, n)` each."""
    place = images.flatten(1).clamp(0, 1) * (knots - 1)
    left = place.long().clamp_max(knots - 2)
    return left, place - left
