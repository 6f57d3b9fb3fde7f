"""Slices with the people that they show: what the measuring programs of this folder have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.images.files import SliceFolder
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.preprocessing import check_images


@dataclass(frozen=True)
class Images:
    """Images of some people, in [0, 1], and whose each is."""

    images: Tensor
    subjects: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Sequence[int]) -> "Images":
        return Images(self.images[list(rows)], [self.subjects[i] for i in rows])

    def of(self, people: Sequence[str]) -> "Images":
        chosen = set(people)
        return self.at([i for i, subject in enumerate(self.subjects) if subject in chosen])

    def spread(self, count: int) -> "Images":
        """At most `count` images, about equally many of each person, evenly spread over those of the person."""
        own = {subject: [i for i, s in enumerate(self.subjects) if s == subject] for subject in self.people}
        rows: dict[str, list[int]] = {subject: [] for subject in own}
        for _ in range(min(count, len(self))):
            subject = min((s for s in own if len(rows[s]) < len(own[s])), key=lambda s: len(rows[s]))
            rows[subject].append(0)
        return self.at([i for subject in own for i in evenly(own[subject], len(rows[subject]))])

    @property
    def people(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(self.subjects))


def evenly(values: Sequence[int], count: int) -> list[int]:
    """`count` of the values, evenly spread.

    >>> evenly([0, 1, 2, 3, 4, 5], 3)
    [1, 3, 5]
    """
    return [values[int((k + 0.5) * len(values) / count)] for k in range(count)]


def shuffled(values: Sequence[str], seed: int) -> list[str]:
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    return [values[i] for i in order.tolist()]


def load(folder: SliceFolder, rows: Sequence[int]) -> Images:
    """Slices of a folder, checked and scaled to [0, 1]."""
    images = check_images(torch.stack([folder[i]["image"] for i in rows]))
    return Images(normalise_intensity(images, "quantile"), [folder.subjects[i] for i in rows])


def read(folder: SliceFolder, subjects: set[str], slices: int) -> Images:
    """At most `slices` slices of each subject, evenly spread, in [0, 1]; of volumes, from their middle half."""
    rows: list[int] = []
    for subject in sorted(subjects):
        own = [i for i, s in enumerate(folder.subjects) if s == subject]
        if folder.slices[own[0]].position is not None:
            own = own[len(own) // 4 : 3 * len(own) // 4]
        rows += own[:: -(-len(own) // slices)]
    return load(folder, rows)
