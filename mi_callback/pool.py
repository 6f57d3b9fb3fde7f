"""Training and held-out images in one reference that does not say which is which."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.features import Features, join
from mi_callback.retrieval import Reference


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
        """Pool both sides; no subject shows more images than the side with fewer images a subject has.

        Labels are exchangeable only among people who are shown alike: with seventeen slices of each training subject
        and four of each held-out one, the closest image would be a training image of anybody.
        """
        most = min(_most_of_a_subject(train), _most_of_a_subject(held_out))
        train, held_out = (side.where(_at_most(side, most, seed)) for side in (train, held_out))
        images = join(train, held_out)
        names = list(dict.fromkeys(images.subjects or ()))
        number = {name: i for i, name in enumerate(names)}
        subject = torch.tensor([number[name] for name in images.subjects or ()])
        trained = torch.zeros(len(names), dtype=torch.bool)
        trained[subject[: len(train)]] = True
        return cls(images, fit_reference(images), subject, trained)


def _most_of_a_subject(features: Features) -> int:
    return 1 if features.subjects is None else max(Counter(features.subjects).values())


def _at_most(features: Features, most: int, seed: int) -> Tensor:
    """Positions of at most `most` images of each subject, drawn at random, ascending."""
    generator = torch.Generator().manual_seed(seed)
    taken: dict[object, int] = {}
    kept = []
    for i in torch.randperm(len(features), generator=generator).tolist():
        subject = i if features.subjects is None else features.subjects[i]
        if taken.setdefault(subject, 0) < most:
            taken[subject] += 1
            kept.append(i)
    return torch.tensor(sorted(kept))
