"""Samples that the module makes anyway: what its `validation_step` or `predict_step` returns."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.errors import SamplerError, choice
from mi_callback.lightning.drawn_images import as_images
from mi_callback.lightning.samplers.found import FoundSampler, NoMoreImages, Setting

STEPS = ("validation_step", "predict_step")
KEYS = ("samples", "generated", "fake", "images")


class StepSampler:
    """Takes samples from what a step of the module returns; of `validation_step` while it is run, without a second run.

    Args:
        step: `validation_step` or `predict_step`; the latter is called with validation batches.
        key: Where in a returned dictionary they are; the first of `samples`, `generated`, `fake`, `images` when None.

    Example:
        >>> MemorizationCallback(sampler="predict_step")  # doctest: +SKIP
    """

    def __init__(self, step: str = "validation_step", key: str | None = None) -> None:
        self.step, self.key = choice("step", step, STEPS, SamplerError), key
        self._taken: list[Tensor] = []

    @property
    def late(self) -> bool:
        """Whether samples are there only after the validation batches were run."""
        return self.step == "validation_step"

    def begin(self) -> None:
        """Forget what was taken."""
        self._taken = []

    def take(self, outputs: Any, most: int) -> None:
        """Take up to `most` samples in all from what `validation_step` returned."""
        if sum(map(len, self._taken)) < most:
            self._taken.append(self._images(outputs).detach().cpu())

    def bind(self, module: nn.Module, setting: Setting) -> FoundSampler:
        """How to draw images from this module; see `ReadySampler`."""
        if not callable(getattr(module, self.step, None)):
            raise SamplerError(f"needed {type(module).__name__}.{self.step}; it has none.")
        batches = iter(self._taken) if self.late else self._predicted(module, setting)
        rest = torch.empty(0)

        def draw(n: int) -> Tensor:
            nonlocal rest
            while len(rest) < n and (batch := next(batches, None)) is not None:
                rest = torch.cat([rest, batch]) if len(rest) else batch
            if not len(rest):
                raise NoMoreImages(f"{self.step} returned no more")
            drawn, rest = rest[:n], rest[n:]
            return drawn

        return FoundSampler(draw, f"what {type(module).__name__}.{self.step} returns", late=self.late, fewer=True)

    def _predicted(self, module: Any, setting: Setting) -> Iterator[Tensor]:
        if setting.batches is None:
            raise SamplerError("needed validation batches for predict_step; there are none.")
        for position, batch in enumerate(setting.batches()):
            yield self._images(module.predict_step(batch, position)).detach().cpu()

    def _images(self, outputs: Any) -> Tensor:
        if isinstance(outputs, dict):
            key = self.key or next((name for name in KEYS if name in outputs), None)
            if key is None or key not in outputs:
                raise SamplerError(
                    f"needed samples under {self.key or ' or '.join(KEYS)} in what {self.step} returns; it has the "
                    f"keys {list(outputs)}. Say where: StepSampler({self.step!r}, key='…')."
                )
            outputs = outputs[key]
        if outputs is None:
            raise SamplerError(f"needed {self.step} to return samples; None came. Return {{'samples': images}}.")
        return as_images(outputs)
