"""Generated images → their match in a training set: search by features, then verify by registration."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mi_callback import registration
from mi_callback.features import Features
from mi_callback.local_correlation import LEVELS
from mi_callback.poses import POSES
from mi_callback.retrieval import Neighbours, Reference
from mi_callback.similarity import Aggregation
from mi_callback.types import Thumbnails

VERIFIED_AT_ONCE = 64
"""Images whose candidates are aligned in one go; bounds the memory."""


@dataclass(frozen=True)
class Match:
    """What n queries resemble most, and how much; tensors `(n,)`.

    Attributes:
        row: Row of the training set.
        pose: Position among `POSES` of the one in which it was found.
        window: Window of the query by which it was found (see `regions`); −1 for the whole image.
        similarity: The one that decides: `verified`, or that of the features where verification is off. Float64.
        verified: LNCC after alignment; NaN where verification is off.
        shares: Share of the structure whose LNCC reaches each of its levels, `(n, levels)`; NaN where verification is
            off. See `copied`.
        neighbours: What the features alone found.
    """

    row: Tensor
    pose: Tensor
    window: Tensor
    similarity: Tensor
    verified: Tensor
    shares: Tensor
    neighbours: Neighbours


@dataclass(frozen=True)
class Matcher:
    """How a query is looked up: generated images and every null go through exactly this.

    Attributes:
        aggregation: How layers combine.
        candidates: Training images aligned per query.
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
        neighbours = reference.search(queries, self.aggregation, self.candidates)
        if not self.verify:
            nothing = torch.full_like(neighbours.similarity, float("nan"))
            whole = torch.full_like(neighbours.match, -1)
            shares = nothing[:, None].expand(-1, len(LEVELS))
            return Match(neighbours.match, neighbours.pose, whole, neighbours.similarity, nothing, shares, neighbours)
        lncc, shares = self._verify(queries.thumbnails, neighbours, references, label)
        best = lncc.argmax(dim=1, keepdim=True)
        places = (neighbours.candidates, neighbours.candidate_poses, neighbours.candidate_windows, lncc)
        row, pose, window, verified = (values.gather(1, best)[:, 0] for values in places)
        return Match(row, pose, window, verified, verified, shares, neighbours)

    def _verify(
        self, queries: Tensor, neighbours: Neighbours, references: Thumbnails, label: str | None
    ) -> tuple[Tensor, Tensor]:
        """LNCC of every candidate, `(n, candidates)`, −1 for none, and `Match.shares` under the best; float64."""
        lncc = torch.full(neighbours.candidates.shape, -1.0, dtype=torch.float64)
        shares = torch.zeros(len(lncc), len(LEVELS), dtype=torch.float64)
        # Whole images at a time: the candidates of one compete for the finest level of the registration.
        blocks = torch.arange(len(queries)).split(VERIFIED_AT_ONCE)
        turns = list(POSES.values())
        for block in tqdm(blocks, desc=label, unit="block", disable=label is None, leave=False):
            image, slot = (neighbours.candidates[block] >= 0).nonzero(as_tuple=True)
            image = block[image]
            rows, poses = neighbours.candidates[image, slot], neighbours.candidate_poses[image, slot]
            posed = [turns[p](queries[i]) for i, p in zip(image.tolist(), poses.tolist(), strict=True)]
            generated, reference = torch.stack(posed).to(self.device), references[rows].to(self.device)
            windows = neighbours.candidate_windows[image, slot]
            alignment = registration.register(generated, reference, group=image, window=windows)
            lncc[image, slot] = alignment.lncc.double().cpu()
            best = slot == lncc[image].argmax(dim=1)
            shares[image[best]] = alignment.shares.double().cpu()[best]
        return lncc, shares
