"""Is the generated image a warped copy of the match? Many pairs are aligned and compared; hopeless ones stop early."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mi_callback.images.contrast.curves import identity_curve
from mi_callback.images.windows import window_masks
from mi_callback.registration.config import FoundBy, RegistrationConfig, registration_config
from mi_callback.registration.local_correlation import shares_by_level
from mi_callback.registration.pyramid import (
    ImagePairs,
    compare_fine,
    compare_middle,
    refine_coarse,
    refine_middle,
    search_coarse,
)
from mi_callback.registration.selection import select_best, select_first_and_best, select_foremost


@dataclass(frozen=True)
class Alignment:
    """What was found of p pairs, c of which reached the finest level.

    Attributes:
        lncc: The LNCC that decides: of the region of the generated image where it is largest, in fine or in coarse
            detail, or in coarse detail of the whole; less if fine detail is missing (see `decision`). Larger is closer,
            1 is a copy, −1 stands for pairs that were not compared. Invariant to local gain and offset, and to inverted
            contrast.
        shares: Share of the structure in the generated image whose LNCC reaches each of `LNCC_LEVELS` in fine detail;
            see `copied_fraction`. 0 for pairs that were not compared.
        compared: Positions of the pairs that reached the finest level, ascending: all, without groups.
        aligned: Their references in the frame of the generated image, in [0, 1], under their `curve`.
        lncc_map: Their local correlation in fine detail; 0 outside the overlap.
        theta: Affine part of the map from generated to reference coordinates, as `affine_grid` takes it.
        curve: Contrast curve under which the reference was compared; see `images.contrast.curves`. Of pairs that were
            not aligned by their edges the one that changes nothing.
    """

    lncc: Float[Tensor, " p"]
    shares: Float[Tensor, "p levels"]
    compared: Int[Tensor, " c"]
    aligned: Float[Tensor, "c ..."]
    lncc_map: Float[Tensor, "c ..."]
    theta: Float[Tensor, "p dims dims+1"]
    curve: Float[Tensor, "p knots"]


def register(
    generated: UInt8[Tensor, "p ..."],
    reference: UInt8[Tensor, "p ..."],
    group: Int[Tensor, " p"] | None = None,
    window: Int[Tensor, " p"] | None = None,
    by_edges: Bool[Tensor, " p"] | None = None,
    start: Float[Tensor, "p dims dims+1"] | None = None,
    candidates: int = 8,
    config: RegistrationConfig | None = None,
) -> Alignment:
    """Align each reference to its generated image by an affine map and a small smooth warp, and compare them.

    Deterministic, and of fixed cost per pair. The warp is kept where it makes the images more alike.

    Args:
        generated: Thumbnails, or those of volumes, in the pose in which the reference was found.
        reference: Thumbnails of the same shape.
        group: Which pairs are candidates for the same generated image, the likeliest first. They compete with those of
            their group that were found as they were (`FoundBy`), and on every level fewer go on, as `ScheduleConfig`
            says: maps are searched for all; those that stand foremost, in the order given or by the search, are aligned
            on the coarsest level; the first and the best of these are refined on the middle one, and the best of these
            compared on the finest. The others get `lncc` −1. Without groups every pair is compared.
        window: Which window of the generated image (see `images.windows`) is aligned, the rest being ignored; −1 for
            the whole. By default the whole.
        by_edges: Which pairs are aligned by their edges instead of their grey values, and compared under the contrast
            curve that makes them most alike: copies in another contrast. By default none.
        start: Maps to begin with, as `Alignment.theta`. They are not searched then, and of each group only the pair
            that agrees best under them goes on.
        candidates: Pairs of a group and a kind that are aligned on the coarsest level, times `Quota.aligned`; with 1,
            the first of each whatever the search says.
        config: All constants. By default `registration_config` of 2 or 3 dimensions.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004 (inverse compositional alignment);
        Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999;
        Avants et al., "Symmetric diffeomorphic image registration with cross-correlation", MedIA 2008 (LNCC).
    """
    config = registration_config(reference.ndim - 1) if config is None else config
    pairs = _CandidatePairs.of(generated, reference, group, window, by_edges)
    if start is None:
        theta, finalists = _search_and_refine(pairs, candidates, config)
    else:
        theta, finalists = start.clone(), _choose_under(pairs, start, config)
    return _compare(pairs, theta, finalists.sort().values, config)


@dataclass(frozen=True)
class _CandidatePairs:
    """Pairs as they came to `register`; what is chosen by is on the CPU."""

    generated: UInt8[Tensor, "p ..."]
    reference: UInt8[Tensor, "p ..."]
    group: Int[Tensor, " p"]
    window: Int[Tensor, " p"]
    by_edges: Bool[Tensor, " p"]

    @classmethod
    def of(
        cls,
        generated: Tensor,
        reference: Tensor,
        group: Tensor | None,
        window: Tensor | None,
        by_edges: Tensor | None,
    ) -> "_CandidatePairs":
        """Whole images, in groups of their own, by their grey values, where nothing else is said."""
        count = len(generated)
        group = torch.arange(count) if group is None else group.cpu()
        window = torch.full((count,), -1) if window is None else window.cpu()
        by_edges = torch.zeros(count, dtype=torch.bool) if by_edges is None else by_edges.cpu()
        return cls(generated, reference, group, window, by_edges)

    def __len__(self) -> int:
        return len(self.generated)

    @property
    def found_by(self) -> Int[Tensor, " p"]:
        """`FoundBy` of each pair."""
        of_grey_values = torch.where(self.window >= 0, FoundBy.WINDOW, FoundBy.WHOLE)
        return torch.where(self.by_edges, FoundBy.EDGES, of_grey_values)

    @property
    def rivals(self) -> Int[Tensor, " p"]:
        """One number for all pairs that compete with each other."""
        return len(FoundBy) * self.group + self.found_by

    def batches(self, rows: Int[Tensor, " r"], size: int) -> Iterator[tuple[Int[Tensor, " b"], ImagePairs]]:
        """Rows that are aligned alike, on the device of the images, and these; at most `size` at a time."""
        device = self.generated.device
        masks = window_masks(self.reference.shape[-1], self.reference.ndim - 1).to(device)
        for by_edges in (False, True):
            alike = rows[self.by_edges[rows] == by_edges]
            for some in alike.split(size) if len(alike) else ():
                mask = masks.index_select(0, self.window[some].to(device) % len(masks))
                some = some.to(device)
                images = (_as_float(self.generated, some), _as_float(self.reference, some))
                yield some, ImagePairs(*images, mask, by_edges)


def _as_float(images: Tensor, rows: Tensor) -> Tensor:
    # Whole rows: ten times faster than indexing is.
    return images.index_select(0, rows).float()[:, None] / 255


def _search_and_refine(pairs: _CandidatePairs, candidates: int, config: RegistrationConfig) -> tuple[Tensor, Tensor]:
    """Maps of all pairs after the middle level, as far as each came, `(p, …)`, and the positions of the finalists."""
    size, quotas = config.schedule.coarse_batch, config.schedule.quotas
    starts, agreement = _search(pairs, config)
    theta, compared = starts[:, 0].clone(), torch.zeros_like(agreement)
    aligned = _limit(pairs, [int(quota.aligned * candidates) for quota in quotas])
    rows = select_foremost(agreement.cpu(), pairs.rivals, aligned)
    for some, images in pairs.batches(rows, size):
        theta[some], agreement[some] = refine_coarse(images, starts[some], config)
        compared[some] = compare_middle(images, theta[some], config)
    # Moved copies in another contrast correlate best where the maps are coarse; unmoved ones agree best by LNCC.
    kept = _limit(pairs, [quota.kept for quota in quotas])[rows]
    ours = select_first_and_best(agreement[rows].cpu(), pairs.rivals[rows], kept)
    rows = rows[torch.cat([ours, select_best(compared[rows].cpu(), pairs.rivals[rows], kept)]).unique()]
    for some, images in pairs.batches(rows, size):
        theta[some], agreement[some] = refine_middle(images, theta[some], config)
    finalists = _limit(pairs, [quota.finalists for quota in quotas])
    return theta, rows[select_best(agreement[rows].cpu(), pairs.rivals[rows], finalists[rows])]


def _search(pairs: _CandidatePairs, config: RegistrationConfig) -> tuple[Tensor, Tensor]:
    """Maps to start from, and the evidence for the best, of every pair."""
    dims, device = pairs.reference.ndim - 1, pairs.generated.device
    starts = torch.zeros(len(pairs), config.search.starts, dims, dims + 1, device=device)
    evidence = torch.zeros(len(pairs), device=device)
    for some, images in pairs.batches(torch.arange(len(pairs)), config.schedule.coarse_batch):
        starts[some], evidence[some] = search_coarse(images, config)
    return starts, evidence


def _limit(pairs: _CandidatePairs, most: list[int]) -> Tensor:
    """How many of those that compete with each pair may go on, `(p,)`, from a number for each `FoundBy`."""
    return torch.tensor(most)[pairs.found_by]


def _choose_under(pairs: _CandidatePairs, theta: Tensor, config: RegistrationConfig) -> Tensor:
    """Positions of the pairs, one of each that compete, that agree best under given maps."""
    agreement = torch.zeros(len(pairs), device=pairs.generated.device)
    for some, images in pairs.batches(torch.arange(len(pairs)), config.schedule.coarse_batch):
        agreement[some] = compare_middle(images, theta[some], config)
    return select_best(agreement.cpu(), pairs.rivals)


def _compare(pairs: _CandidatePairs, theta: Tensor, compared: Tensor, config: RegistrationConfig) -> Alignment:
    """The finest level of some pairs, ascending; `theta` is changed in place."""
    result = _not_compared(pairs, theta, compared, config)
    for some, images in pairs.batches(compared, config.schedule.fine_batch):
        found = compare_fine(images, theta[some], config)
        theta[some], result.curve[some], result.lncc[some] = found.theta, found.curve, found.lncc
        result.shares[some] = shares_by_level(found.local, config.local_correlation.levels)
        place = torch.searchsorted(compared, some.cpu())
        result.aligned[place], result.lncc_map[place] = found.aligned, found.local.map[:, 0]
    return result


def _not_compared(pairs: _CandidatePairs, theta: Tensor, compared: Tensor, config: RegistrationConfig) -> Alignment:
    """What is known before the finest level: the maps alone."""
    images = theta.new_empty(len(compared), *pairs.reference.shape[1:])
    return Alignment(
        lncc=theta.new_full((len(pairs),), -1.0),
        shares=theta.new_zeros(len(pairs), len(config.local_correlation.levels)),
        compared=compared,
        aligned=images,
        lncc_map=torch.empty_like(images),
        theta=theta,
        curve=identity_curve(theta).repeat(len(pairs), 1),
    )
