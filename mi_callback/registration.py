"""Is the generated image a warped copy of the match? Alignment, then local correlation in image space."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback import regions
from mi_callback.affine import align_coarsely, align_further, at_level
from mi_callback.edges import edges
from mi_callback.free_form import refine
from mi_callback.local_correlation import LEVELS, Agreement, local_correlation
from mi_callback.recolouring import apply_curve, fit_curve, no_curve
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

EDGES = 2.0
"""Scale, in pixels, of the edges that are aligned: where a curve makes two edges of one, finer ones lie elsewhere."""

ROUNDS = 2
"""How often a contrast curve and the map are fitted in turn."""

MIDDLE, FINEST = 1, 2
"""Levels of the pyramid (`affine.LEVELS`) after the coarsest."""

KEPT, FINALISTS = (4, 4, 3), (2, 1, 1)
"""Candidates of one image that go on after the coarsest level, and to the finest, those that agree best: of those found
as a whole, by a window, and by edges. They compete with their like, for a part agrees better than a whole."""


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
        curve: Contrast curve under which the reference was compared, `(p, KNOTS)`; see `recolouring`. Of pairs that
            were not aligned by their edges the one that changes nothing.
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
    by_edges: Tensor | None = None,
    start: Tensor | None = None,
    chunk: int | None = None,
) -> Alignment:
    """Align each reference to its generated image by an affine map and a small smooth warp, and compare them.

    Deterministic, and of fixed cost per pair. The warp is kept where it makes the images more alike.

    Args:
        generated: uint8 `(p, side, side)`, or volumes `(p, side, side, side)`, in the pose in which the reference was
            found.
        reference: uint8, of the same shape.
        group: Which pairs are candidates for the same generated image, `(p,)`: of each group the first and those that
            agree best on the coarsest level go on, `KEPT` of a kind, and of these the best reach the finest one,
            `FINALISTS`; the others get `lncc` −1. Without groups every pair does.
        window: Which window of the generated image (see `regions`) is aligned, the rest being ignored, `(p,)`; −1 for
            the whole. By default the whole.
        by_edges: Which pairs are aligned by their edges instead of their grey values, and compared under the contrast
            curve that makes them most alike, bool `(p,)`: copies in another contrast. By default none.
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
    by_edges = torch.zeros(pairs, dtype=torch.bool) if by_edges is None else by_edges.cpu()
    masks = regions.masks(side, dims).to(device)

    def batches(rows: Tensor) -> Iterator[tuple[Tensor, bool, tuple[Tensor, Tensor, Tensor]]]:
        """Rows of one kind, whether they are aligned by edges, and their images and masks."""
        for drawn in (False, True):
            of_kind = rows[by_edges[rows] == drawn]
            for some in of_kind.split(chunk) if len(of_kind) else ():
                mask = masks[window[some]]
                some = some.to(device)
                yield some, drawn, (_as_float(generated[some]), _as_float(reference[some]), mask)

    kind = torch.where(by_edges, 2, (window >= 0).long())
    rivals = 3 * group + kind
    theta, agreement = torch.zeros(pairs, dims, dims + 1, device=device), torch.zeros(pairs, device=device)
    left = torch.arange(pairs)
    if start is None:
        for rows, drawn, images in batches(left):
            theta[rows], agreement[rows] = _coarsely(*images, drawn)
        left = _best(agreement.cpu(), rivals, torch.tensor(KEPT)[kind])
    else:
        theta = start.clone()
    for rows, drawn, images in batches(left):
        if start is None:
            theta[rows] = _further(*images, theta[rows], drawn)
        agreement[rows] = _promise(*images, theta[rows], drawn, bend=start is None)
    most = torch.tensor(FINALISTS)[kind[left]] if start is None else torch.ones_like(left)
    left = left[best_of_group(agreement[left].cpu(), rivals[left], most).sort().values]
    result = Alignment(
        lncc=torch.full_like(agreement, -1.0),
        shares=agreement.new_zeros(pairs, len(LEVELS)),
        aligned=agreement.new_zeros(reference.shape),
        lncc_map=agreement.new_zeros(reference.shape),
        theta=theta,
        curve=no_curve(agreement).repeat(pairs, 1),
    )
    for rows, drawn, images in batches(left):
        theta[rows], result.curve[rows], result.lncc[rows], found, aligned = _align(*images, theta[rows], drawn)
        result.shares[rows], result.lncc_map[rows], result.aligned[rows] = found.shares(), found.map[:, 0], aligned
    return result


def _coarsely(generated: Tensor, reference: Tensor, mask: Tensor, by_edges: bool) -> tuple[Tensor, Tensor]:
    """Maps that align the images, or their edges, on the coarsest level, and how well they agree."""
    seen = (edges(generated, EDGES), edges(reference, EDGES)) if by_edges else (generated, reference)
    return align_coarsely(*seen, mask)


def _further(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool) -> Tensor:
    """Maps after the level before the finest."""
    if not recolour:
        return align_further(MIDDLE, generated, reference, mask, theta)
    theta = align_further(MIDDLE, edges(generated, EDGES), edges(reference, EDGES), mask, theta)
    for _ in range(ROUNDS):
        fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
        curve = _best_curve(fixed, moving, where, theta)
        theta = align_further(MIDDLE, generated, apply_curve(reference, curve), mask, theta)
    return theta


def _promise(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor, recolour: bool, bend: bool) -> Tensor:
    """How well they agree one level before the finest, with a warp where it helps if they may bend, `(p,)`.

    LNCC is the mean of the region that agrees most, in the mask and anywhere: a copied part agrees where it was found,
    a whole image beyond it.
    """
    fixed, moving, where = at_level(MIDDLE, generated, reference, mask)
    curve = _best_curve(fixed, moving, where, theta) if recolour else None
    found = [local_correlation(fixed, *image) for image in _moved(fixed, moving, where, theta, curve, bend)]
    return torch.stack([(agreement.best(where) + agreement.best()) / 2 for agreement in found]).amax(dim=0)


def _align(
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


def _as_float(images: Tensor) -> Tensor:
    return images.float()[:, None] / 255


def best_of_group(value: Tensor, group: Tensor, most: Tensor | int = 1) -> Tensor:
    """Positions of `most` pairs of each group, those with the largest value, by group and descending.

    Args:
        value, group: Of p pairs, `(p,)`.
        most: The same for all, or of the group of each pair, `(p,)`.
    """
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[group[by_value].argsort(stable=True)]
    _, sizes = group[order].unique_consecutive(return_counts=True)
    rank = torch.cat([torch.arange(int(size)) for size in sizes])
    return order[rank < (most if isinstance(most, int) else most[order])]


def _best(agreement: Tensor, group: Tensor, most: Tensor) -> Tensor:
    """Positions of the pairs of each group that agree best, the first of it among them, ascending.

    Retrieval's favourite stays that way: the coarsest level may misjudge it.
    """
    position = torch.arange(len(group))
    of_group = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, position, "amin")
    return best_of_group(agreement.masked_fill(of_group[group] == position, torch.inf), group, most).sort().values


def _compare(generated: Tensor, aligned: Tensor, inside: Tensor, blur: float) -> Agreement:
    dims = generated.ndim - 2
    return local_correlation(gaussian(generated, blur, dims), gaussian(aligned, blur, dims), inside)


def _in_either(fine: Tensor, coarse: Tensor) -> Tensor:
    """LNCC `(p,)` after less blur, or after more where less stays unexplained there, as much as that counts.

    A copy that lost its fine detail, and one that shares it with another image, are both copies.
    """
    unexplained = torch.minimum(1 - fine.square(), COARSE_COUNTS * (1 - coarse.square()))
    return (1 - unexplained).clamp_min(0).sqrt()
