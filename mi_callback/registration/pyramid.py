"""One pair at a time, level by level: aligned, coarse to fine, and compared. Of many, `registration` says who goes on.

Images are `(p, 1, *spatial)` in [0, 1], masks 1 where the generated image counts, maps as `Alignment.theta`.
"""

import torch
from torch import Tensor

from mi_callback.images.contrast.curves import apply_curve, fit_curve, identity_curve
from mi_callback.images.contrast.edges import edge_strength
from mi_callback.images.filters import gaussian_blur, local_contrast
from mi_callback.images.resizing import shrink
from mi_callback.images.warping import warp
from mi_callback.registration.affine import align_coarsely, align_further, at_level, search, unmoved
from mi_callback.registration.free_form import refine
from mi_callback.registration.local_correlation import Agreement, detail_kept, local_correlation

STRUCTURE = (1 / 12, 0.05)
"""Scale, as a share of the side, and smallest deviation of the local contrast that is aligned."""

FINE, COARSE = 0.5, 1.4
"""Standard deviation, in pixels, of the blur before the two comparisons. Noise takes LNCC down, unless it is blurred
away; of a copy at half the resolution only what is left after more blur agrees. Of two blended images it is fine detail
that tells whose they are."""

REGION_COUNTS, WHOLE_COUNTS = 3.0, 2.0
"""What the variance that stays unexplained after more blur counts, in the region where that is least and in the whole
overlap, relative to that after less: so much less of it do strangers leave there."""

SHARP = 0.95
"""Detail of the generated image, relative to the match, from which fine detail counts in full. Below, what stays
unexplained counts more, as much as detail is missing: without noise of their own blurred strangers look more alike."""

EDGES = 1.0
"""Scale, in pixels of the middle level, of the edges that are aligned: where a curve makes two edges of one, finer ones
lie elsewhere."""

ROUNDS = 2
"""How often a contrast curve and the map are fitted in turn."""

COARSEST, MIDDLE, FINEST = 0, 1, 2
"""Levels of the pyramid (`affine.LEVELS`)."""


def roughly(generated: Tensor, reference: Tensor, mask: Tensor, by_edges: bool) -> tuple[Tensor, Tensor]:
    """Some maps that may align the images, or their edges, `(p, STARTS, …)`, and how much speaks for the best."""
    return search(*_coarse(generated, reference, mask, by_edges))


def coarsely(
    generated: Tensor, reference: Tensor, mask: Tensor, starts: Tensor, by_edges: bool
) -> tuple[Tensor, Tensor]:
    """Maps that align the images, or their edges, on the coarsest level, and how well they agree."""
    return align_coarsely(*_coarse(generated, reference, mask, by_edges), starts)


def further(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool) -> tuple[Tensor, Tensor]:
    """Maps after the level before the finest, and how well they agree there, with a warp where it helps, `(p,)`."""
    fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
    if recolour:
        theta = _by_turns(fixed, moving, where, reference, theta)
    else:
        theta = align_further(MIDDLE, fixed, moving, where, theta)
    # Most copies are not moved. Of a part of one, pasted where it lay, the rest pulls the map away; of one in another
    # contrast the edges may not be enough to align.
    home = unmoved(theta)
    (found, curve), (at_home, curve_at_home) = (
        _plainly(fixed, moving, where, there, recolour) for there in (theta, home)
    )
    stays = (at_home > found)[:, None]
    theta, plain = torch.where(stays[..., None], home, theta), torch.maximum(found, at_home)
    if curve is not None and curve_at_home is not None:
        curve = torch.where(stays, curve_at_home, curve)
    structure = _structure(fixed, _under(curve, moving))
    bent = _best_regions(fixed, *_bent(moving, structure, where, theta, curve), where)
    return theta, torch.maximum(plain, bent)


def promise(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool) -> Tensor:
    """How well they agree one level before the finest, without a warp, `(p,)`."""
    fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
    return _plainly(fixed, moving, where, theta, recolour)[0]


def finely(
    generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool
) -> tuple[Tensor, Tensor, Tensor, Agreement, Tensor]:
    """The finest level, with a warp where it helps: map, curve, LNCC, agreement in fine detail, reference aligned."""
    curve = _best_curve(generated, reference, mask, theta) if recolour else None
    structure = _structure(generated, _under(curve, reference))
    theta = align_further(FINEST, *structure, mask, theta)
    if recolour:
        curve = _best_curve(generated, reference, mask, theta)
        structure = _structure(generated, _under(curve, reference))
    moved, bent = _moved(reference, theta, curve), _bent(reference, structure, mask, theta, curve)
    plain, warped = (_compare(generated, *image, FINE) for image in (moved, bent))
    fine = torch.stack([plain.best(), warped.best()])
    better = fine[1] > fine[0]
    shape = (-1, *(1 for _ in reference.shape[1:]))
    aligned, inside = (torch.where(better.view(shape), ours, theirs) for ours, theirs in zip(bent, moved, strict=True))
    agreement, coarse = warped.where(better, plain), _compare(generated, aligned, inside, COARSE)
    curve = identity_curve(generated).expand(len(theta), -1) if curve is None else curve
    return theta, curve, _in_either(fine.amax(dim=0), agreement, coarse), agreement, aligned[:, 0]


def _coarse(generated: Tensor, reference: Tensor, mask: Tensor, by_edges: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Images, or edges of them, drawn on the middle level, and masks as the coarsest level sees them."""
    (where,) = at_level(COARSEST, mask)
    if by_edges:
        generated, reference = (edge_strength(image, EDGES) for image in at_level(MIDDLE, generated, reference))
    side = where.shape[-1]
    return shrink(generated, side), shrink(reference, side), where


def _by_turns(fixed: Tensor, moving: Tensor, mask: Tensor, reference: Tensor, theta: Tensor) -> Tensor:
    """Maps after the middle level: of edges, then of images under the curve that fits, in turn."""
    theta = align_further(MIDDLE, edge_strength(fixed, EDGES), edge_strength(moving, EDGES), mask, theta)
    for _ in range(ROUNDS):
        curve = _best_curve(fixed, moving, mask, theta)
        (recoloured,) = at_level(MIDDLE, apply_curve(reference, curve))
        theta = align_further(MIDDLE, fixed, recoloured, mask, theta)
    return theta


def _plainly(
    fixed: Tensor, moving: Tensor, mask: Tensor, theta: Tensor, recolour: bool
) -> tuple[Tensor, Tensor | None]:
    """How well they agree under a map without a warp, `(p,)`, and the curve under which, where one is asked for."""
    curve = _best_curve(fixed, moving, mask, theta) if recolour else None
    return _best_regions(fixed, *_moved(moving, theta, curve), mask), curve


def _best_regions(generated: Tensor, aligned: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """LNCC, the mean of the region that agrees most, in the mask and anywhere, `(p,)`.

    A copied part agrees where it was found, a whole image beyond it.
    """
    agreement = local_correlation(generated, aligned, inside)
    return (agreement.best(mask) + agreement.best()) / 2


def _moved(moving: Tensor, theta: Tensor, curve: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images under a map, and then a curve, and 1 where they lie inside.

    The curve comes last: thin lines that it draws between two tissues would not survive what moves them.
    """
    image, inside = warp(moving, theta)
    return _under(curve, image), inside


def _bent(
    moving: Tensor, structure: tuple[Tensor, Tensor], mask: Tensor, theta: Tensor, curve: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same with a small smooth warp before the map, one that aligns their structure."""
    displacement = refine(*structure, mask, theta)
    image, inside = warp(moving, theta, displacement)
    return _under(curve, image), inside


def _under(curve: Tensor | None, images: Tensor) -> Tensor:
    return images if curve is None else apply_curve(images, curve)


def _best_curve(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    """The curve of each reference, under its map, `(p, KNOTS)`."""
    moved, inside = warp(reference, theta)
    return fit_curve(moved, generated, inside * mask)


def _structure(generated: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """What the finer steps align: a bias field would pull the images apart. Coarse ones need the whole brightness."""
    scale, floor = STRUCTURE
    scale *= generated.shape[-1]
    return local_contrast(generated, scale, floor), local_contrast(reference, scale, floor)


def _compare(generated: Tensor, aligned: Tensor, inside: Tensor, blur: float) -> Agreement:
    dims = generated.ndim - 2
    return local_correlation(gaussian_blur(generated, blur, dims), gaussian_blur(aligned, blur, dims), inside)


def _in_either(best: Tensor, fine: Agreement, coarse: Agreement) -> Tensor:
    """LNCC `(p,)` after less blur, or after more where less stays unexplained there, as much as that counts.

    A copy that lost its fine detail, and one that shares it with another image, are both copies. After less blur it is
    less if the generated image lacks detail.

    Args:
        best: That of the region which agrees most after less blur.
        fine, coarse: Agreement after less and after more.
    """
    missing = (SHARP / detail_kept(fine, coarse)).clamp_min(1)
    values = ((best, missing), (coarse.best(), REGION_COUNTS), (coarse.overall(), WHOLE_COUNTS))
    unexplained = torch.stack([counts * (1 - lncc.square()) for lncc, counts in values]).amin(dim=0)
    return (1 - unexplained).clamp_min(0).sqrt()
