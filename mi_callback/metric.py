"""The detector as a torchmetrics metric: update with generated images, compute the Memorization Index."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import StateError
from mi_callback.scores import Scores


class MemorizationIndex(Metric):
    """Mean Memorization Index of all generated images seen; larger means closer to the training set.

    The fitted detector is kept by `reset()`, as the real features of FID and KID are with
    `reset_real_features=False`: only the generated images are forgotten.

    Args:
        detector: A fitted `MemorizationDetector`.

    Raises:
        StateError: If the detector is not fitted, or `compute` is called before `update`.

    Example:
        >>> metric = MemorizationIndex(MemorizationDetector().fit(train, held_out=held_out))  # doctest: +SKIP
        >>> metric.update(generated)  # doctest: +SKIP
        >>> metric.compute()  # doctest: +SKIP
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    images: list[Tensor]

    def __init__(self, detector: MemorizationDetector, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not detector.fitted:
            raise StateError("needed a fitted detector; call detector.fit(train, held_out=…) first.")
        self.detector = detector
        self.add_state("images", default=[], dist_reduce_fx="cat")

    def update(self, images: Tensor) -> None:
        """Add generated images `(n, 1, h, w)`."""
        self.images.append(images.detach())

    def scores(self) -> Scores:
        """Full scores of the images seen so far."""
        if isinstance(self.images, list) and not self.images:
            raise StateError("needed generated images; call update(images) before compute().")
        images = self.images if isinstance(self.images, Tensor) else torch.cat(self.images)
        return self.detector.score(images)

    def compute(self) -> Tensor:
        """Mean MI, a scalar tensor on the metric's device."""
        return self.scores().mi.mean().to(self.device, torch.float32)
