"""Training and held-out images in one reference that does not say which is which."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.retrieval.features import Features, join
from mi_callback.retrieval.reference import Reference
from mi_callback.statistics.subjects import numbered

RANKS = 1000
"""Quantiles at which numbers of images are matched."""


@dataclass(frozen=True)
class Pool:
    """What samples are looked up in for a contrast.

    Attributes:
        images: Of both sides, pose 0.
        reference: Whitening and index fitted on both sides alike.
        subject: Number of the subject of each image, `(n,)`.
        trained: Whether each subject was trained on, bool `(G,)`.
    """

    images: Features
    reference: Reference
    subject: Tensor
    trained: Tensor

    @classmethod
    def of(
        cls, train: Features, held_out: Features, fit_reference: Callable[[Features], Reference], seed: int
    ) -> "Pool":
        """Pool both sides; as many images a subject on one side as on the other, drawn at random.

        Labels are exchangeable only among people who are shown alike: with seventeen slices of each training subject
        and four of each held-out one, the closest image would be a training image of anybody. Subjects are ranked by
        their number of images, and those of equal rank show the smaller of their two numbers.
        """
        shown = torch.minimum(*(_images_by_rank(side) for side in (train, held_out)))
        train, held_out = (side.where(_drawn(side, shown, seed)) for side in (train, held_out))
        images = join(train, held_out)
        subject = numbered(images.ids)
        trained = torch.zeros(int(subject.max()) + 1, dtype=torch.bool)
        trained[subject[: len(train)]] = True
        return cls(images, fit_reference(images), subject, trained)


def _images_by_rank(features: Features) -> Tensor:
    """Number of images of the subject at each of `RANKS` quantiles, ascending."""
    counts = torch.tensor(sorted(Counter(features.ids).values()))
    return counts[(torch.arange(RANKS) + 0.5).mul(len(counts) / RANKS).long()]


def _drawn(features: Features, shown: Tensor, seed: int) -> Tensor:
    """Positions of images, ascending: of the subject at each quantile `shown` images, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    ids = features.ids
    rows: dict[str, list[int]] = {}
    for i in torch.randperm(len(features), generator=generator).tolist():
        rows.setdefault(ids[i], []).append(i)
    # Stable: subjects with equally many images stay in random order.
    ranked = sorted(rows.values(), key=len)
    ranks = [int((place + 0.5) * RANKS / len(ranked)) for place in range(len(ranked))]
    kept = [own[: int(shown[rank])] for own, rank in zip(ranked, ranks, strict=True)]
    return torch.tensor(sorted(i for own in kept for i in own))
