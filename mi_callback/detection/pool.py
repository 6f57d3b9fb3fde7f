"""Training and held-out images in one reference that does not say which is which."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.errors import StateError
from mi_callback.retrieval.features import Features, join
from mi_callback.retrieval.reference import Reference
from mi_callback.statistics.subjects import numbered, show_alike


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
        cls, train: Features, held_out: Features | None, fit_reference: Callable[[Features], Reference], seed: int
    ) -> "Pool":
        """Pool both sides; as many images a subject on one side as on the other, drawn at random.

        Labels are exchangeable only among people who are shown alike: see `subjects.show_alike`. An image that is there
        several times is one image.

        Raises:
            StateError: If there are no held-out images.
        """
        if held_out is None:
            raise StateError("needed held-out images for contrast=True; this state has none. Fit with held_out=….")
        rows = [side.distinct for side in (train, held_out)]
        ours, theirs = ([side.ids[i] for i in some] for side, some in zip((train, held_out), rows, strict=True))
        shown = show_alike(ours, theirs, seed)
        train, held_out = train.where(rows[0][shown.train]), held_out.where(rows[1][shown.held_out])
        images = join(train, held_out)
        subject = numbered(images.ids)
        trained = torch.zeros(int(subject.max()) + 1, dtype=torch.bool)
        trained[subject[: len(train)]] = True
        return cls(images, fit_reference(images), subject, trained)
