"""The training image as another contrast curve would show it: T1 made to look like T2 is still that patient.

A curve maps grey values to grey values and need not rise. Local correlation looks through any gain and offset of a few
pixels, but not through a curve that bends within them.
"""

import torch
from torch import Tensor

from mi_callback.warping import standardise

KNOTS = 17
"""Knots of a curve, evenly spread over the grey values; linear between them."""

STIFFNESS = 1e-3
"""Weight of the penalty on bends, relative to the data: grey values that hardly occur follow their neighbours."""

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
    hats = _hats(images.flatten(1))
    weighted = hats * weight.flatten(1)[:, None]
    bends = torch.eye(KNOTS, device=images.device).diff(n=2, dim=0)
    total = weight.flatten(1).sum(dim=1).clamp_min(1.0)
    stiff = STIFFNESS * total[:, None, None] * (bends.T @ bends + 1e-3 * torch.eye(KNOTS, device=images.device))
    return torch.linalg.solve(weighted @ hats.transpose(1, 2) + stiff, weighted @ like.flatten(1)[..., None])[..., 0]


def apply_curve(images: Tensor, curve: Tensor) -> Tensor:
    """Images `(p, c, *spatial)` in [0, 1] under curves of any number of knots, `(p, knots)`, kept in that range."""
    place = images.flatten(1).clamp(0, 1) * (curve.shape[1] - 1)
    left = place.long().clamp_max(curve.shape[1] - 2)
    low, high = curve.gather(1, left), curve.gather(1, left + 1)
    return torch.lerp(low, high, place - left).clamp(0, 1).view_as(images)


def no_curve(like: Tensor) -> Tensor:
    """The curve that leaves images as they are, `(KNOTS,)`, where `like` is."""
    return torch.linspace(0, 1, KNOTS).to(like)


def look_alike(images: Tensor, recoloured: Tensor) -> Tensor:
    """Whether a curve left images `(p, 1, *spatial)` much as they were, but for gain and offset: `(p,)`."""
    ours, theirs = (standardise(image, torch.ones_like(image)).flatten(1) for image in (images, recoloured))
    return (ours * theirs).mean(dim=1) > SAME


def _hats(values: Tensor) -> Tensor:
    """How much each knot counts at values `(p, n)` in [0, 1], linear in between: `(p, KNOTS, n)`."""
    knots = torch.arange(KNOTS, device=values.device)[:, None]
    return (1 - (values[:, None] * (KNOTS - 1) - knots).abs()).clamp_min(0)
