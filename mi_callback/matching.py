"""Generated images → their match in a training set: search by features, then verify by registration."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mi_callback import registration
from mi_callback.features import Features
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
        copied_fraction: Share of the image that is locally a copy; NaN where verification is off.
        neighbours: What the features alone found.
    """

    row: Tensor
    pose: Tensor
    window: Tensor
    similarity: Tensor
    verified: Tensor
    copied_fraction: Tensor
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
            return Match(neighbours.match, neighbours.pose, whole, neighbours.similarity, nothing, nothing, neighbours)
        lncc, copied = self._verify(queries.thumbnails, neighbours, references, label)
        best = lncc.argmax(dim=1, keepdim=True)
        places = (neighbours.candidates, neighbours.candidate_poses, neighbours.candidate_windows, lncc, copied)
        row, pose, window, verified, copied = (values.gather(1, best)[:, 0] for values in places)
        return Match(row, pose, window, verified, verified, copied, neighbours)

    def _verify(
        self, queries: Tensor, neighbours: Neighbours, references: Thumbnails, label: str | None
    ) -> tuple[Tensor, Tensor]:
        """LNCC and copied fraction of every candidate, `(n, candidates)` float64; LNCC −1 for no candidate."""
        lncc = torch.full(neighbours.candidates.shape, -1.0, dtype=torch.float64)
        copied = torch.zeros_like(lncc)
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
            copied[image, slot] = alignment.copied_fraction.double().cpu()
        return lncc, copied
