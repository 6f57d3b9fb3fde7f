"""Is the generated image a warped copy of the match? Alignment, then local correlation in image space."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback import regions
from mi_callback.affine import align_coarsely, align_finely, at_level
from mi_callback.free_form import refine
from mi_callback.local_correlation import LEVELS, Agreement, local_correlation
from mi_callback.recolouring import KNOTS, apply_curve, fit_curve, no_curve
from mi_callback.smoothing import gaussian, local_contrast
from mi_callback.warping import warp

SIZE = 96
"""Side, in pixels, at which images are compared."""

VOLUME_SIZE = 48
"""The same of volumes."""

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

KEPT = 4
"""Candidates of one image that go on to the finest level: the first, and those that agree best one level before. Of
those that were found by a window, as many again. All of these are warped at the end: an elastic copy may agree less
than strangers before."""


@dataclass(frozen=True)
class Alignment:
    """Result for p pairs.

    Attributes:
        lncc: Local correlation in the region of the generated image where it is largest, in fine or in coarse detail
            (see `_in_either`), shape `(p,)`; larger is closer, 1 is a copy. Invariant to local gain and offset, and to
            inverted contrast.
        shares: Share of the structure in the generated image whose LNCC reaches each of the `LEVELS` of
            `local_correlation` in fine detail, `(p, levels)`; see `copied`.
        aligned: The reference in the frame of the generated image, `(p, side, side)` in [0, 1]; volumes have one more.
            Under its `curve`.
        lncc_map: Local correlation in fine detail, of the same shape; 0 outside the overlap.
        theta: Affine part of the map from generated to reference coordinates (as `affine_grid` takes it), `(p, 2, 3)`,
            of volumes `(p, 3, 4)`.
        curve: Contrast curve under which the reference was compared, `(p, KNOTS)`: see `recolouring`.
    """

    lncc: Tensor
    shares: Tensor
    aligned: Tensor
    lncc_map: Tensor
    theta: Tensor
    curve: Tensor


def side_of(dims: int) -> int:
    """Side at which images (2) or volumes (3) are compared."""
    return SIZE if dims == 2 else VOLUME_SIZE


def register(
    generated: Tensor,
    reference: Tensor,
    group: Tensor | None = None,
    window: Tensor | None = None,
    start: Tensor | None = None,
    chunk: int | None = None,
) -> Alignment:
    """Align each reference to its generated image by an affine map and a small smooth warp, and compare them.

    Deterministic, and of fixed cost per pair. The warp is kept where it makes the images more alike. Where a reference
    that was not moved agrees better under another contrast curve (see `recolouring`), it is compared under that one.

    Args:
        generated: uint8 `(p, side, side)`, or volumes `(p, side, side, side)`, in the pose in which the reference was
            found.
        reference: uint8, of the same shape.
        group: Which pairs are candidates for the same generated image, `(p,)`: of each group the first and the best
            after the coarser levels, `KEPT` in all, reach the finest one and are warped; the others get `lncc` −1.
            Without groups every pair is.
        window: Which window of the generated image (see `regions`) is aligned, the rest being ignored, `(p,)`; −1 for
            the whole. By default the whole.
        start: Maps to begin with, as `Alignment.theta`. They are not searched then, and of each group only the pair
            that agrees best under them goes on.
        chunk: Pairs aligned at a time; bounds the memory. By default 128 images or 8 volumes.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004 (inverse compositional alignment);
        Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999;
        Avants et al., "Symmetric diffeomorphic image registration", MedIA 2008 (LNCC).
    """
    pairs, dims, side = len(generated), reference.ndim - 1, reference.shape[-1]
    chunk = chunk or (128 if dims == 2 else 8)
    device = generated.device
    group = torch.arange(pairs) if group is None else group.cpu()
    window = torch.full((pairs,), -1) if window is None else window.cpu()
    masks = regions.masks(side, dims).to(device)

    def images(rows: Tensor) -> tuple[Tensor, Tensor]:
        return _as_float(generated[rows]), _as_float(reference[rows])

    def mask(rows: Tensor) -> Tensor:
        return masks[window[rows.cpu()]]

    theta, promise = torch.zeros(pairs, dims, dims + 1, device=device), torch.zeros(pairs, device=device)
    curve = torch.zeros(pairs, KNOTS, device=device)
    for rows in torch.arange(pairs, device=device).split(chunk):
        there = align_coarsely(*images(rows), mask(rows)) if start is None else start[rows]
        home = torch.eye(dims, dims + 1, device=device).expand_as(there) if start is None else there
        promise[rows], theta[rows], curve[rows] = _before(*images(rows), mask(rows), there, home)
    result = Alignment(
        lncc=torch.full_like(promise, -1.0),
        shares=promise.new_zeros(pairs, len(LEVELS)),
        aligned=promise.new_zeros(reference.shape),
        lncc_map=promise.new_zeros(reference.shape),
        theta=theta,
        curve=curve,
    )
    rivals = 2 * group + (window >= 0)  # a part agrees better than a whole: each competes with its like
    finalists = _finalists(promise.cpu(), rivals) if start is None else best_of_group(promise.cpu(), rivals)
    for rows in finalists.to(device).split(chunk):
        fixed, moving = images(rows)
        moving = apply_curve(moving, curve[rows])
        theta[rows], result.lncc[rows], found, aligned = _align(fixed, moving, mask(rows), theta[rows])
        result.shares[rows], result.lncc_map[rows], result.aligned[rows] = found.shares(), found.map[:, 0], aligned
    return result


def _before(
    generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, home: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One level before the finest: how well they agree, `(p,)`, and under which map and curve.

    A copy in another contrast is looked for at `home`: what aligned the images knows no curves. LNCC is the mean of the
    region that agrees most, in the mask and anywhere: a copied part agrees where it was found, a whole image beyond it.
    """
    fixed, moving, where = at_level(-2, generated, reference, mask)
    there, inside = warp(moving, home)
    curve = fit_curve(there, fixed, inside * where)
    found = (
        local_correlation(fixed, *warp(moving, theta)),
        local_correlation(fixed, apply_curve(there, curve), inside),
    )
    plain, recoloured = ((agreement.best(where) + agreement.best()) / 2 for agreement in found)
    better = (recoloured > plain)[:, None]
    theta, curve = torch.where(better[:, None], home, theta), torch.where(better, curve, no_curve(curve))
    return torch.maximum(plain, recoloured), theta, curve


def _align(
    generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor
) -> tuple[Tensor, Tensor, Agreement, Tensor]:
    """The finest level, with a warp where it helps: map, LNCC, agreement in fine detail, and the reference aligned."""
    structure = _structure(generated, reference)
    theta = align_finely(*structure, mask, theta)
    moved, bent = warp(reference, theta), warp(reference, theta, refine(*structure, mask, theta))
    plain, warped = (_compare(generated, *image, FINE) for image in (moved, bent))
    fine = torch.stack([plain.best(), warped.best()])
    better = fine[1] > fine[0]
    shape = (-1, *(1 for _ in reference.shape[1:]))
    aligned, inside = (torch.where(better.view(shape), ours, theirs) for ours, theirs in zip(bent, moved, strict=True))
    coarse = _compare(generated, aligned, inside, COARSE).best()
    return theta, _in_either(fine.amax(dim=0), coarse), warped.where(better, plain), aligned[:, 0]


def _structure(generated: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """What the finer steps align: a bias field would pull the images apart. Coarse ones need the whole brightness."""
    scale, floor = STRUCTURE
    scale *= generated.shape[-1]
    return local_contrast(generated, scale, floor), local_contrast(reference, scale, floor)


def _as_float(images: Tensor) -> Tensor:
    return images.float()[:, None] / 255


def best_of_group(value: Tensor, group: Tensor, most: int = 1) -> Tensor:
    """Positions of `most` pairs of each group, those with the largest value, by group and descending."""
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[group[by_value].argsort(stable=True)]
    _, sizes = group[order].unique_consecutive(return_counts=True)
    rank = torch.cat([torch.arange(int(size)) for size in sizes])
    return order[rank < most]


def _finalists(promise: Tensor, group: Tensor) -> Tensor:
    """Positions of `KEPT` pairs of each group, ascending: the first, and those that promise most.

    Retrieval's favourite stays that way: a coarse level may misjudge it.
    """
    position = torch.arange(len(group))
    of_group = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, position, "amin")
    return best_of_group(promise.masked_fill(of_group[group] == position, torch.inf), group, KEPT).sort().values


def _compare(generated: Tensor, aligned: Tensor, inside: Tensor, blur: float) -> Agreement:
    dims = generated.ndim - 2
    return local_correlation(gaussian(generated, blur, dims), gaussian(aligned, blur, dims), inside)


def _in_either(fine: Tensor, coarse: Tensor) -> Tensor:
    """LNCC `(p,)` after less blur, or after more where less stays unexplained there, as much as that counts.

    A copy that lost its fine detail, and one that shares it with another image, are both copies.
    """
    unexplained = torch.minimum(1 - fine.square(), COARSE_COUNTS * (1 - coarse.square()))
    return (1 - unexplained).clamp_min(0).sqrt()
