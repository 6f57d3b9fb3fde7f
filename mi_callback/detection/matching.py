"""Generated images → their match in a training set: search by features, then verify by registration.

Whoever is found best has siblings: other images of the same person, which retrieval may have missed. They lie where it
lies, so a look at each is cheap.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mi_callback.images.poses import POSES
from mi_callback.registration import schedule
from mi_callback.registration.local_correlation import LEVELS
from mi_callback.retrieval.aggregation import Aggregation
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Neighbours, Reference
from mi_callback.types import Thumbnails

VERIFIED_AT_ONCE = {2: 64, 3: 8}
"""Images, or volumes, whose candidates are aligned in one go; bounds the memory."""

LOOKED_UP = 4
"""Training images found by the whole image for which a map is searched, for each one that is aligned."""

SIBLINGS = 16
"""Other images of the best candidate's person that are looked at, where that one lies: of a copy that was blended with
something else, retrieval may find the person but not the slice."""


@dataclass(frozen=True)
class Match:
    """What n queries resemble most, and how much; tensors `(n,)`.

    Attributes:
        row: Row of the training set.
        pose: Position among `POSES` of the one in which it was found.
        window: Window of the query by which it was found (see `regions`); −1 for the whole image.
        by_edges: Whether it was found by its edges, and compared under the contrast curve that fits, bool.
        similarity: The one that decides: `verified`, or that of the features where verification is off. Float64.
        verified: LNCC after alignment; NaN where verification is off.
        shares: Share of the structure whose LNCC reaches each of its levels, `(n, levels)`; NaN where verification is
            off. See `copied`.
        neighbours: What the features alone found.
    """

    row: Tensor
    pose: Tensor
    window: Tensor
    by_edges: Tensor
    similarity: Tensor
    verified: Tensor
    shares: Tensor
    neighbours: Neighbours


@dataclass(frozen=True)
class Matcher:
    """How a query is looked up: generated images and every null go through exactly this.

    Attributes:
        aggregation: How layers combine.
        candidates: Training images, found by the whole image, that are aligned per query.
        verify: Whether they are.
        device: Where images are aligned.
    """

    aggregation: Aggregation
    candidates: int
    verify: bool
    device: torch.device

    def __call__(
        self, queries: Features, reference: Reference, references: Thumbnails, label: str | None = None
    ) -> Match:
        """Match queries in `reference`, whose images are `references`, with a progress bar `label`."""
        neighbours = reference.search(queries, self.aggregation, self.candidates * LOOKED_UP)
        if not self.verify:
            nothing = torch.full_like(neighbours.similarity, float("nan"))
            whole = torch.full_like(neighbours.match, -1)
            shares = nothing[:, None].expand(-1, len(LEVELS))
            row, pose, alike = neighbours.match, neighbours.pose, neighbours.similarity
            by_grey_values = torch.zeros_like(whole, dtype=torch.bool)
            return Match(row, pose, whole, by_grey_values, alike, nothing, shares, neighbours)
        # Whole images at a time: the candidates of one compete for the finest level of the registration.
        blocks = torch.arange(len(queries)).split(VERIFIED_AT_ONCE[queries.dims])
        shown = tqdm(blocks, desc=label, unit="block", disable=label is None, leave=False)
        found = [self._verify(queries.thumbnails, neighbours, block, reference, references) for block in shown]
        row, pose, window, by_edges, lncc, shares = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Match(row, pose, window, by_edges, lncc, lncc, shares, neighbours)

    def _verify(
        self, queries: Tensor, neighbours: Neighbours, block: Tensor, reference: Reference, references: Thumbnails
    ) -> tuple[Tensor, ...]:
        """The best candidate, or sibling of it, of each query of a block: what `Match` says of it, up to its shares."""
        pairs = _Pairs.of(neighbours, block)
        turns = list(POSES.values())
        posed = [turns[p](queries[i]) for i, p in zip(block[pairs.query].tolist(), pairs.pose.tolist(), strict=True)]
        generated = torch.stack(posed).to(self.device)
        alignment = self._register(generated, pairs, references)
        lncc, shares = alignment.lncc.cpu(), alignment.shares.cpu()
        best = schedule.best_of_group(lncc, pairs.query)
        compared = (lncc > -1) & (pairs.by_edges == pairs.by_edges[best][pairs.query])
        lead, rows = self._siblings(pairs.row[best], pairs.where(compared), reference)
        if len(rows):
            like = best[lead]
            siblings = replace(pairs.where(like), row=rows)
            like = like.to(self.device)
            near = self._register(generated[like], siblings, references, start=alignment.theta[like])
            pairs = pairs.with_(siblings)
            lncc, shares = torch.cat([lncc, near.lncc.cpu()]), torch.cat([shares, near.shares.cpu()])
            best = schedule.best_of_group(lncc, pairs.query)
        chosen = pairs.where(best)
        return chosen.row, chosen.pose, chosen.window, chosen.by_edges, lncc[best].double(), shares[best].double()

    def _register(
        self, generated: Tensor, pairs: "_Pairs", references: Thumbnails, start: Tensor | None = None
    ) -> schedule.Alignment:
        moving = references[pairs.row].to(self.device)
        return schedule.register(
            generated, moving, pairs.query, pairs.window, pairs.by_edges, start=start, candidates=self.candidates
        )

    def _siblings(self, best: Tensor, compared: "_Pairs", reference: Reference) -> tuple[Tensor, Tensor]:
        """Siblings of the best row of each query that were not compared yet: which query, and which row, `(s,)`."""
        siblings = reference.siblings(best, self.aggregation, SIBLINGS)
        same = siblings[compared.query] == compared.row[:, None]
        known = torch.zeros_like(siblings).index_add_(0, compared.query, same.long()) > 0
        query, slot = (~known & (siblings >= 0)).nonzero(as_tuple=True)
        return query, siblings[query, slot]


@dataclass(frozen=True)
class _Pairs:
    """Which training images are compared with which queries of a block, and how, `(p,)` each."""

    query: Tensor
    row: Tensor
    pose: Tensor
    window: Tensor
    by_edges: Tensor

    @classmethod
    def of(cls, neighbours: Neighbours, block: Tensor) -> "_Pairs":
        """The candidates of the queries of a block."""
        query, slot = (neighbours.candidates[block] >= 0).nonzero(as_tuple=True)
        places = (
            neighbours.candidates,
            neighbours.candidate_poses,
            neighbours.candidate_windows,
            neighbours.candidate_by_edges,
        )
        return cls(query, *(values[block][query, slot] for values in places))

    def where(self, places: Tensor) -> "_Pairs":
        return _Pairs(*(getattr(self, field.name)[places] for field in fields(self)))

    def with_(self, others: "_Pairs") -> "_Pairs":
        both = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return _Pairs(*(torch.cat(parts) for parts in both))
