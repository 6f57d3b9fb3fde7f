"""Generated images → their match in a training set: search by features, then verify by registration.

Whoever is found best has siblings: other images of the same person, which retrieval may have missed. They lie where it
lies, so a look at each is cheap.
"""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.images.poses import POSES
from mi_callback.images.progress import counted
from mi_callback.registration.config import LNCC_LEVELS
from mi_callback.registration.schedule import Alignment, register
from mi_callback.registration.selection import select_best
from mi_callback.retrieval.aggregation import Aggregation
from mi_callback.retrieval.candidates import Candidates
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import Neighbours, search
from mi_callback.types import Thumbnails


@dataclass(frozen=True)
class MatchingConfig:
    """Constants of matching, chosen on seeds 0 and 1 of the detection benchmark (brains and lumbar spines);
    `looked_up` of images on seed 0 alone.

    Attributes:
        at_once: Images, or volumes, whose candidates are aligned in one go; bounds the memory.
        looked_up: Training images found by the whole image for which a map is searched, per one that is aligned: one
            of images, which have a descriptor too.
        siblings: Other images of the best candidate's person that are looked at, where that one lies: of a copy that
            was blended with something else, retrieval may find the person but not the slice.
    """

    at_once: int
    looked_up: int
    siblings: int = 16


MATCHING = {2: MatchingConfig(at_once=64, looked_up=1), 3: MatchingConfig(at_once=8, looked_up=4)}
"""By the number of spatial dimensions."""


@dataclass(frozen=True)
class Match:
    """What n queries resemble most, and how much.

    Attributes:
        row: Row of the training set.
        pose: Position among `POSES` of the one in which it was found.
        window: Window of the query by which it was found (see `images.windows`); −1 for the whole image.
        by_edges: Whether it was found by its edges, and compared under the contrast curve that fits.
        similarity: The one that decides: `verified`, or that of the features where verification is off. Float64;
            larger is closer.
        verified: LNCC after alignment; NaN where verification is off.
        shares: Share of the structure whose LNCC reaches each of its levels; NaN where verification is off. See
            `registration.copied_fraction`.
        neighbours: What the features alone found.
    """

    row: Int[Tensor, " n"]
    pose: Int[Tensor, " n"]
    window: Int[Tensor, " n"]
    by_edges: Bool[Tensor, " n"]
    similarity: Float[Tensor, " n"]
    verified: Float[Tensor, " n"]
    shares: Float[Tensor, "n levels"]
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
        config = MATCHING[queries.dims]
        neighbours = search(reference, queries, self.aggregation, self.candidates * config.looked_up)
        if not self.verify:
            return _by_features(neighbours)
        # Whole images at a time: the candidates of one compete for the finest level of the registration.
        blocks = torch.arange(len(queries)).split(config.at_once)
        found = [
            self._verify(queries.thumbnails, neighbours, block, reference, references)
            for block in counted(blocks, label, "block")
        ]
        row, pose, window, by_edges, lncc, shares = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Match(row, pose, window, by_edges, lncc, lncc, shares, neighbours)

    def _verify(
        self, queries: Tensor, neighbours: Neighbours, block: Tensor, reference: Reference, references: Thumbnails
    ) -> tuple[Tensor, ...]:
        """The best candidate, or sibling of it, of each query of a block: what `Match` says of it, up to its shares."""
        pairs = _Pairs.of(neighbours.candidates, block)
        generated = _posed(queries[block], pairs).to(self.device)
        alignment = self._register(generated, pairs, references)
        lncc, shares = alignment.lncc.cpu(), alignment.shares.cpu()
        best = select_best(lncc, pairs.query)
        compared = (lncc > -1) & (pairs.by_edges == pairs.by_edges[best][pairs.query])
        lead, rows = self._siblings(
            pairs.row[best], pairs.where(compared), reference, MATCHING[queries.ndim - 1].siblings
        )
        if len(rows):
            like = best[lead]
            siblings = replace(pairs.where(like), row=rows)
            like = like.to(self.device)
            near = self._register(generated[like], siblings, references, start=alignment.theta[like])
            pairs = pairs.beside(siblings)
            lncc, shares = torch.cat([lncc, near.lncc.cpu()]), torch.cat([shares, near.shares.cpu()])
            best = select_best(lncc, pairs.query)
        chosen = pairs.where(best)
        return chosen.row, chosen.pose, chosen.window, chosen.by_edges, lncc[best].double(), shares[best].double()

    def _register(
        self, generated: Tensor, pairs: "_Pairs", references: Thumbnails, start: Tensor | None = None
    ) -> Alignment:
        moving = references[pairs.row].to(self.device)
        return register(
            generated, moving, pairs.query, pairs.window, pairs.by_edges, start=start, candidates=self.candidates
        )

    def _siblings(self, best: Tensor, compared: "_Pairs", reference: Reference, most: int) -> tuple[Tensor, Tensor]:
        """Siblings of the best row of each query that were not compared yet: which query, and which row, `(s,)`."""
        siblings = reference.siblings(best, self.aggregation, most)
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
    def of(cls, candidates: Candidates, block: Tensor) -> "_Pairs":
        """The candidates of the queries of a block."""
        query, slot = (candidates.row[block] >= 0).nonzero(as_tuple=True)
        return cls(query, *(getattr(candidates, f.name)[block][query, slot] for f in fields(candidates)))

    def where(self, places: Tensor) -> "_Pairs":
        return _Pairs(*(getattr(self, field.name)[places] for field in fields(self)))

    def beside(self, others: "_Pairs") -> "_Pairs":
        both = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return _Pairs(*(torch.cat(parts) for parts in both))


def _by_features(neighbours: Neighbours) -> Match:
    """The match where nothing is aligned: the nearest training image."""
    unknown = torch.full_like(neighbours.similarity, float("nan"))
    whole = torch.full_like(neighbours.match, -1)
    return Match(
        row=neighbours.match,
        pose=neighbours.pose,
        window=whole,
        by_edges=torch.zeros_like(whole, dtype=torch.bool),
        similarity=neighbours.similarity,
        verified=unknown,
        shares=unknown[:, None].expand(-1, len(LNCC_LEVELS)),
        neighbours=neighbours,
    )


def _posed(images: Tensor, pairs: _Pairs) -> Tensor:
    """The query of each pair in the pose in which its candidate was found."""
    turns = list(POSES.values())
    return torch.stack([turns[p](images[i]) for i, p in zip(pairs.query.tolist(), pairs.pose.tolist(), strict=True)])
