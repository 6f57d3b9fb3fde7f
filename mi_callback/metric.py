"""The detector as a torchmetrics metric: update with generated images, compute the Memorization Index."""

from copy import copy
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mi_callback.arguments import switch
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError, StateError
from mi_callback.scores import Scores

REAL = ("real_pixels", "real_shapes", "real_digests")
"""States of training images."""


class MemorizationIndex(Metric):
    """Mean Memorization Index of all generated images seen; larger means closer to the training set.

    Give it a fitted detector; or one that is not, and show it the training images by `update(images, real=True)`: then
    it is fitted when that is first needed, with a null made of the training images. Images of several sizes may come,
    each batch of one size; under DDP the images of all ranks count. A detector that is not fitted stays so: a copy
    of it is fitted, and again whenever the training images have changed.

    Args:
        detector: A `MemorizationDetector`; one with default options when None.
        reset_real_features: Whether `reset()` forgets the training images, too; as in FID and KID, but for its default:
            they are kept. Without effect, hence refused, where the detector was fitted before.

    Raises:
        OptionError: For training images, or their being forgotten, where the detector was fitted before.
        StateError: If there are no training images, or `compute` is called before `update`.

    Example:
        >>> metric = MemorizationIndex(MemorizationDetector().fit(train, held_out=held_out))  # doctest: +SKIP
        >>> metric.update(generated)  # doctest: +SKIP
        >>> metric.compute()  # doctest: +SKIP
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    pixels: list[Tensor]
    shapes: list[Tensor]
    real_pixels: list[Tensor]
    real_shapes: list[Tensor]
    real_digests: list[Tensor]

    def __init__(
        self, detector: MemorizationDetector | None = None, reset_real_features: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.detector = MemorizationDetector() if detector is None else detector
        self.reset_real_features = switch("reset_real_features", reset_real_features)
        self._given = self.detector.fitted
        if self._given and self.reset_real_features:
            raise OptionError(
                "needed options that have an effect; reset_real_features has none: this detector is fitted."
            )
        self._fitted_on: list[int] = []
        for name in ("pixels", "shapes", *REAL):
            # Flat, so that images of several sizes can be gathered from all ranks.
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add generated images `(n, 1, h, w)`, volumes `(n, 1, d, h, w)`, or with `real` training images."""
        if real and self._given:
            raise OptionError(
                "needed training images before the detector was fitted; this one is. Leave real=True out."
            )
        images = images.detach()
        shapes = torch.tensor([images.shape[1:]] * len(images), device=images.device).view(len(images), -1)
        (self.real_pixels if real else self.pixels).append(images.flatten())
        (self.real_shapes if real else self.shapes).append(shapes)
        if real:
            self.real_digests.append(_digest(images))

    def forward(self, images: Tensor, real: bool = False) -> Tensor | None:
        """Add images, as `update` does: the mean MI of this batch alone, or with `real` None."""
        if real:
            self.update(images, real=True)
            return None
        # What torchmetrics sets back and merges again are the generated images; training images stay as they are.
        kept, forgets = self._real(), self.reset_real_features
        self.reset_real_features = False
        try:
            value: Tensor = super().forward(images)
        finally:
            self.reset_real_features = forgets
            self._put_back(kept)
        return value

    def scores(self) -> Scores:
        """Full scores of the images seen so far."""
        generated = _batches(self.pixels, self.shapes)
        if not generated:
            raise StateError("needed generated images; call update(images) before compute().")
        if not self._given:
            self._fit()
        return self.detector.score(generated)

    def compute(self) -> Tensor:
        """Mean MI, a scalar tensor on the metric's device."""
        return self.scores().mi.mean().to(self.device, torch.float32)

    def reset(self) -> None:
        """Forget generated images, and training images where that was asked for."""
        kept = self._real()
        super().reset()
        if self.reset_real_features:
            self._fitted_on = []
        else:
            self._put_back(kept)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Figure and axes with this value, or with several of them, as torchmetrics draws them."""
        return self._plot(val, ax)

    def _real(self) -> dict[str, Any]:
        return {name: copy(getattr(self, name)) for name in REAL}

    def _put_back(self, real: dict[str, Any]) -> None:
        for name, state in real.items():
            setattr(self, name, state)

    def _fit(self) -> None:
        train = _batches(self.real_pixels, self.real_shapes)
        if not train:
            raise StateError(
                "needed a fitted detector, detector.fit(train, held_out=…), or training images: "
                "update(images, real=True)."
            )
        digests = self.real_digests  # one tensor where they were gathered from all ranks
        seen = (torch.cat(digests) if isinstance(digests, list) else digests).tolist()
        if seen != self._fitted_on:
            self.detector = copy(self.detector).fit(train)  # others may hold this one, too
            self._fitted_on = seen


def _digest(images: Tensor) -> Tensor:
    """Hash of a batch, its shape and type: two integers `(2,)`, on its device."""
    content = images.cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
    found = blake2b(f"{images.dtype}{tuple(images.shape)}".encode() + content, digest_size=16).digest()
    return torch.frombuffer(bytearray(found), dtype=torch.int64).to(images.device)


def _batches(pixels: list[Tensor] | Tensor, shapes: list[Tensor] | Tensor) -> list[Tensor]:
    """Images in batches of one size, in their order.

    Args:
        pixels: All of them, flat.
        shapes: Of each image, `(n, axes)`.
    """
    if isinstance(pixels, list):  # not yet gathered from other ranks
        found = zip(pixels, shapes, strict=True)
        return [flat.view(-1, *shape[0].tolist()) for flat, shape in found if len(shape)]
    batches: list[Tensor] = []
    start = 0
    for shape, n in zip(*torch.unique_consecutive(shapes, dim=0, return_counts=True), strict=True):
        end = start + int(n) * int(shape.prod())
        batches.append(pixels[start:end].view(int(n), *shape.tolist()))
        start = end
    return batches
