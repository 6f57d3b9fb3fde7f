"""One pair at a time, level by level: aligned, coarse to fine, and compared. Of many, `registration` says who goes on.

Images are `(p, 1, *spatial)` in [0, 1], masks 1 where the generated image counts, maps as `Alignment.theta`.
"""

import torch
from torch import Tensor

from mi_callback.affine import align_coarsely, align_further, at_level
from mi_callback.edges import edges
from mi_callback.free_form import refine
from mi_callback.local_correlation import Agreement, local_correlation
from mi_callback.recolouring import apply_curve, fit_curve, no_curve
from mi_callback.smoothing import gaussian, local_contrast
from mi_callback.warping import warp

STRUCTURE = (1 / 12, 0.05)
"""Scale, as a share of the side, and smallest deviation of the local contrast that is aligned."""

FINE, COARSE = 0.5, 1.4
"""Standard deviation, in pixels, of the blur before the two comparisons. Noise takes LNCC down, unless it is blurred
away; of a copy at half the resolution only what is left after more blur agrees. Of two blended images it is fine detail
that tells whose they are."""

COARSE_COUNTS = 2.5
"""What the variance that stays unexplained after more blur counts, relative to that after less: so much less of it do
strangers leave there. With 3, twice as many blurred images of strangers would be as similar as sharp ones are; with 2,
fewer blends would be told from strangers."""

EDGES = 2.0
"""Scale, in pixels, of the edges that are aligned: where a curve makes two edges of one, finer ones lie elsewhere."""

ROUNDS = 2
"""How often a contrast curve and the map are fitted in turn."""

MIDDLE, FINEST = 1, 2
"""Levels of the pyramid (`affine.LEVELS`) after the coarsest."""


def coarsely(generated: Tensor, reference: Tensor, mask: Tensor, by_edges: bool) -> tuple[Tensor, Tensor]:
    """Maps that align the images, or their edges, on the coarsest level, and how well they agree."""
    seen = (edges(generated, EDGES), edges(reference, EDGES)) if by_edges else (generated, reference)
    return align_coarsely(*seen, mask)


def further(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool) -> Tensor:
    """Maps after the level before the finest; of images that are not recoloured, no map where that agrees better.

    Most copies are not moved; of a part of one, pasted into another image where it lay, the rest pulls the map away.
    """
    if not recolour:
        theta = align_further(MIDDLE, generated, reference, mask, theta)
        home = torch.eye(*theta.shape[1:], device=theta.device).expand_as(theta)
        moved, unmoved = (
            promise(generated, reference, mask, there, recolour=False, bend=False) for there in (theta, home)
        )
        return torch.where((unmoved > moved)[:, None, None], home, theta)
    theta = align_further(MIDDLE, edges(generated, EDGES), edges(reference, EDGES), mask, theta)
    for _ in range(ROUNDS):
        fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
        curve = _best_curve(fixed, moving, where, theta)
        theta = align_further(MIDDLE, generated, apply_curve(reference, curve), mask, theta)
    return theta


def promise(
    generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool, bend: bool = True
) -> Tensor:
    """How well they agree one level before the finest, with a warp where it helps if they may bend, `(p,)`.

    LNCC is the mean of the region that agrees most, in the mask and anywhere: a copied part agrees where it was found,
    a whole image beyond it.
    """
    fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
    curve = _best_curve(fixed, moving, where, theta) if recolour else None
    found = [local_correlation(fixed, *image) for image in _moved(fixed, moving, where, theta, curve, bend)]
    return torch.stack([(agreement.best(where) + agreement.best()) / 2 for agreement in found]).amax(dim=0)


def finely(
    generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool
) -> tuple[Tensor, Tensor, Tensor, Agreement, Tensor]:
    """The finest level, with a warp where it helps: map, curve, LNCC, agreement in fine detail, reference aligned."""
    curve = _best_curve(generated, reference, mask, theta) if recolour else None
    theta = align_further(FINEST, *_structure(generated, _under(curve, reference)), mask, theta)
    curve = _best_curve(generated, reference, mask, theta) if recolour else None
    moved, bent = _moved(generated, reference, mask, theta, curve)
    plain, warped = (_compare(generated, *image, FINE) for image in (moved, bent))
    fine = torch.stack([plain.best(), warped.best()])
    better = fine[1] > fine[0]
    shape = (-1, *(1 for _ in reference.shape[1:]))
    aligned, inside = (torch.where(better.view(shape), ours, theirs) for ours, theirs in zip(bent, moved, strict=True))
    coarse = _compare(generated, aligned, inside, COARSE).best()
    curve = no_curve(generated).expand(len(theta), -1) if curve is None else curve
    return theta, curve, _in_either(fine.amax(dim=0), coarse), warped.where(better, plain), aligned[:, 0]


def _moved(
    fixed: Tensor, moving: Tensor, mask: Tensor, theta: Tensor, curve: Tensor | None, bend: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Images under a map, and with a warp before it, and 1 where they lie inside; both under a curve.

    The curve comes last: thin lines that it draws between two tissues would not survive what moves them.
    """
    ways = [warp(moving, theta)]
    if bend:
        ways.append(warp(moving, theta, refine(*_structure(fixed, _under(curve, moving)), mask, theta)))
    return [(_under(curve, image), inside) for image, inside in ways]


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
    return local_correlation(gaussian(generated, blur, dims), gaussian(aligned, blur, dims), inside)


def _in_either(fine: Tensor, coarse: Tensor) -> Tensor:
    """LNCC `(p,)` after less blur, or after more where less stays unexplained there, as much as that counts.

    A copy that lost its fine detail, and one that shares it with another image, are both copies.
    """
    unexplained = torch.minimum(1 - fine.square(), COARSE_COUNTS * (1 - coarse.square()))
    return (1 - unexplained).clamp_min(0).sqrt()
