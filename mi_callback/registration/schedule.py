"""Is the generated image a warped copy of the match? Alignment, then local correlation in image space."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.images.contrast.curves import identity_curve
from mi_callback.images.windows import window_masks
from mi_callback.registration.affine import STARTS
from mi_callback.registration.local_correlation import LEVELS
from mi_callback.registration.pyramid import coarsely, finely, further, promise, roughly

FITTED = (1.0, 1.0, 1.5)
"""Of the candidates of one image, as many go on after the search of maps, times `candidates`: of those found as a
whole, by a window, and by edges. They compete with their like, for a part agrees better than a whole."""

KEPT, FINALISTS = (4, 4, 3), (2, 1, 1)
"""How many of each go on after the coarsest level, and to the finest: those that agree best."""

AT_ONCE = {2: (128, 32), 3: (8, 8)}
"""Pairs that are aligned at a time, on the coarser levels and on the finest, by the number of dimensions."""


@dataclass(frozen=True)
class Alignment:
    """Result for p pairs.

    Attributes:
        lncc: Local correlation in the region of the generated image where it is largest, in fine or in coarse detail,
            or in coarse detail as a whole; less if fine detail is missing (see `pyramid`); shape `(p,)`. Larger is
            closer, 1 is a copy. Invariant to local gain and offset, and to inverted contrast.
        shares: Share of the structure in the generated image whose LNCC reaches each of the `LEVELS` of
            `local_correlation` in fine detail, `(p, levels)`; see `copied`.
        compared: Positions of the c pairs that reached the finest level, ascending, `(c,)`: all, without groups.
        aligned: Their references in the frame of the generated image, `(c, side, side)` in [0, 1]; volumes have one
            more. Under their `curve`.
        lncc_map: Their local correlation in fine detail, of the same shape; 0 outside the overlap.
        theta: Affine part of the map from generated to reference coordinates (as `affine_grid` takes it), `(p, 2, 3)`,
            of volumes `(p, 3, 4)`.
        curve: Contrast curve under which the reference was compared, `(p, KNOTS)`; see `recolouring`. Of pairs that
            were not aligned by their edges the one that changes nothing.
    """

    lncc: Tensor
    shares: Tensor
    compared: Tensor
    aligned: Tensor
    lncc_map: Tensor
    theta: Tensor
    curve: Tensor


def register(
    generated: Tensor,
    reference: Tensor,
    group: Tensor | None = None,
    window: Tensor | None = None,
    by_edges: Tensor | None = None,
    start: Tensor | None = None,
    candidates: int = 8,
    chunk: int | None = None,
) -> Alignment:
    """Align each reference to its generated image by an affine map and a small smooth warp, and compare them.

    Deterministic, and of fixed cost per pair. The warp is kept where it makes the images more alike.

    Args:
        generated: uint8 `(p, side, side)`, or volumes `(p, side, side, side)`, in the pose in which the reference was
            found.
        reference: uint8, of the same shape.
        group: Which pairs are candidates for the same generated image, `(p,)`, the likeliest first: for each pair of a
            group maps are searched, and those of a kind that stand foremost, in the order given or by the search, are
            aligned on the coarsest level (see `candidates`); the first of these and those that agree best go on,
            `KEPT` of a kind, and of these the best reach the finest one, `FINALISTS`; the others get `lncc` −1. Without
            groups every pair does.
        window: Which window of the generated image (see `regions`) is aligned, the rest being ignored, `(p,)`; −1 for
            the whole. By default the whole.
        by_edges: Which pairs are aligned by their edges instead of their grey values, and compared under the contrast
            curve that makes them most alike, bool `(p,)`: copies in another contrast. By default none.
        start: Maps to begin with, as `Alignment.theta`. They are not searched then, and of each group only the pair
            that agrees best under them goes on.
        candidates: Pairs of a group and a kind that are aligned on the coarsest level, times what `FITTED` says of the
            kind; with 1, the first of each whatever the search says.
        chunk: Pairs aligned at a time, on every level; bounds the memory. By default `AT_ONCE`.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004 (inverse compositional alignment);
        Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999;
        Avants et al., "Symmetric diffeomorphic image registration", MedIA 2008 (LNCC).
    """
    pairs, dims, side = len(generated), reference.ndim - 1, reference.shape[-1]
    coarser, finest = (chunk, chunk) if chunk else AT_ONCE[dims]
    device = generated.device
    group = torch.arange(pairs) if group is None else group.cpu()
    window = torch.full((pairs,), -1) if window is None else window.cpu()
    by_edges = torch.zeros(pairs, dtype=torch.bool) if by_edges is None else by_edges.cpu()
    masks = window_masks(side, dims).to(device)
    everyone = torch.arange(pairs)
    kind = torch.where(by_edges, 2, (window >= 0).long())
    rivals = len(KEPT) * group + kind

    def batches(rows: Tensor, size: int = coarser) -> Iterator[tuple[Tensor, bool, tuple[Tensor, Tensor, Tensor]]]:
        """Rows that are aligned alike, whether that is by edges, and their images and masks."""
        for drawn in (False, True):
            alike = rows[by_edges[rows] == drawn]
            for some in alike.split(size) if len(alike) else ():
                mask = masks.index_select(0, window[some].to(device) % len(masks))
                some = some.to(device)
                yield some, drawn, (_as_float(generated, some), _as_float(reference, some), mask)

    theta = torch.zeros(pairs, dims, dims + 1, device=device) if start is None else start.clone()
    agreement = torch.zeros(pairs, device=device)
    if start is None:
        starts = theta[:, None].repeat(1, STARTS, 1, 1)
        for rows, drawn, images in batches(everyone):
            starts[rows], agreement[rows] = roughly(*images, drawn)
        theta = starts[:, 0].clone()
        fitted = _foremost(agreement.cpu(), rivals, (candidates * torch.tensor(FITTED)).long()[kind])
        for rows, drawn, images in batches(fitted):
            theta[rows], agreement[rows] = coarsely(*images, starts[rows], drawn)
        kept = fitted[_best(agreement[fitted].cpu(), rivals[fitted], torch.tensor(KEPT)[kind[fitted]])]
        for rows, drawn, images in batches(kept):
            theta[rows], agreement[rows] = further(*images, theta[rows], drawn)
        most = torch.tensor(FINALISTS)[kind[kept]]
        finalists = kept[best_of_group(agreement[kept].cpu(), rivals[kept], most)]
    else:
        for rows, drawn, images in batches(everyone):
            agreement[rows] = promise(*images, theta[rows], drawn)
        finalists = best_of_group(agreement.cpu(), rivals)
    compared = finalists.sort().values
    aligned = agreement.new_empty(len(compared), *reference.shape[1:])
    result = Alignment(
        lncc=torch.full_like(agreement, -1.0),
        shares=agreement.new_zeros(pairs, len(LEVELS)),
        compared=compared,
        aligned=aligned,
        lncc_map=torch.empty_like(aligned),
        theta=theta,
        curve=identity_curve(agreement).repeat(pairs, 1),
    )
    for rows, drawn, images in batches(compared, finest):
        place = torch.searchsorted(compared, rows.cpu())
        theta[rows], result.curve[rows], result.lncc[rows], found, aligned[place] = finely(*images, theta[rows], drawn)
        result.shares[rows], result.lncc_map[place] = found.shares(), found.map[:, 0]
    return result


def _as_float(images: Tensor, rows: Tensor) -> Tensor:
    # Whole rows: ten times faster than indexing is.
    return images.index_select(0, rows).float()[:, None] / 255


def best_of_group(value: Tensor, group: Tensor, most: Tensor | int = 1) -> Tensor:
    """Positions of `most` pairs of each group, those with the largest value, by group and descending.

    Args:
        value, group: Of p pairs, `(p,)`.
        most: The same for all, or of the group of each pair, `(p,)`.
    """
    order, place = _ordered(value, group)
    return order[place < (most if isinstance(most, int) else most[order])]


def _ordered(value: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of all pairs by group, the largest value first, and the place of each of them in its group, from 0."""
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[group[by_value].argsort(stable=True)]
    _, sizes = group[order].unique_consecutive(return_counts=True)
    return order, torch.cat([torch.arange(int(size)) for size in sizes])


def _foremost(evidence: Tensor, group: Tensor, most: Tensor) -> Tensor:
    """Positions of the pairs of each group that stand foremost, by evidence or in the order given, ascending.

    Each is right about copies that the other misjudges.
    """
    orders = (_ordered(value, group) for value in (-torch.arange(len(group)), evidence))
    given, by_evidence = (place[order.argsort()] for order, place in orders)
    return best_of_group(-torch.minimum(given, by_evidence + 0.5), group, most).sort().values


def _best(agreement: Tensor, group: Tensor, most: Tensor) -> Tensor:
    """Positions of the pairs of each group that agree best, the first of it among them, ascending.

    Retrieval's favourite stays that way: the coarsest level may misjudge it.
    """
    position = torch.arange(len(group))
    of_group = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, position, "amin")
    return best_of_group(agreement.masked_fill(of_group[group] == position, torch.inf), group, most).sort().values
