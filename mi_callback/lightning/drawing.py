"""Which samples a validation is scored on: when they are drawn, for which conditions, and what they are drawn from."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mi_callback.errors import DataError, SamplerError
from mi_callback.lightning.data.loaders import evaluation_loader, named_loaders
from mi_callback.lightning.data.sides import Source, fetch_validation_loaders, training_sources
from mi_callback.lightning.randomness import rng_kept
from mi_callback.lightning.ranks import guarded
from mi_callback.lightning.samplers import FoundSampler, ReadySampler, Setting, StepSampler
from mi_callback.lightning.samplers.averages import swaps_averages
from mi_callback.lightning.samplers.conditions import Conditions, draw_conditions
from mi_callback.lightning.sampling import draw, find_sampler
from mi_callback.lightning.time_limit import TimeLimit, TimeUp
from mi_callback.types import SubjectKey

TRIED = 2
"""Images drawn before training, to see whether the sampler works."""


@dataclass
class Drawing:
    """Draws the samples of each validation.

    Attributes:
        sampler: As the user gave it.
        n: Images of a validation.
        batch_size: Images of a call.
        seed: Of the latents, the same at every validation.
        limit: Of the time.
        condition_key: Where validation batches hold what images are drawn for; None for nothing.
        train: The user's training images, or None for those of the Trainer.
        image_key: Where batches hold images.
        conditions: What images are drawn for, once that is known.
    """

    sampler: str | Callable[..., Any] | ReadySampler | None
    n: int
    batch_size: int
    seed: int
    limit: TimeLimit = field(default_factory=lambda: TimeLimit(None))
    condition_key: SubjectKey = None
    train: Any = None
    image_key: SubjectKey = None
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        if self.sampler in ("validation_step", "predict_step"):
            self.sampler = StepSampler(str(self.sampler))
        self._early: Tensor | None = None
        self._refused: Exception | None = None
        self._example: Tensor | None = None

    def try_out(self, trainer: Any, module: Any) -> None:
        """Draw two images before training: a sampler that cannot work is said now.

        Raises:
            SamplerError: If it does not.
            DataError: If there are no conditions to draw images for.
        """
        if self.condition_key is not None or isinstance(self.sampler, StepSampler):
            fetch_validation_loaders(trainer)
        self._draw_conditions(trainer)
        if self._source(trainer, module).late:
            return
        self.limit.begin()
        with suppress(DataError, TimeUp):  # what an untrained generator draws may be constant
            self._draw(trainer, module, TRIED)

    def begin(self) -> None:
        """A validation begins."""
        self._early, self._refused = None, None
        self.limit.begin()
        if isinstance(self.sampler, StepSampler):
            self.sampler.begin()

    def draw_early(self, trainer: Any, module: Any) -> None:
        """Draw while averaged weights are in place; what fails is raised where the samples are asked for."""

        def work() -> None:
            if not self._source(trainer, module).late:
                self._early = self._draw(trainer, module, self.n)

        self._refused = guarded(work)

    def take(self, outputs: Any) -> None:
        """See what `validation_step` returned; what cannot be taken is raised where the samples are asked for."""
        sampler = self.sampler
        if isinstance(sampler, StepSampler) and sampler.late and self._refused is None:
            self._refused = guarded(lambda: sampler.take(outputs, self.n))

    def names(self, n: int) -> list[str] | None:
        """A name for what each of the first n samples was drawn for; see `Conditions.names`."""
        return None if self.conditions is None else self.conditions.names(n)

    def samples(self, trainer: Any, module: Any) -> Tensor:
        """The samples of this validation: as many as were asked for, or as there is time to score.

        Raises:
            SamplerError, DataError: As `draw`.
            TimeUp: If there is time for none, or for fewer than can be judged as all are.
        """
        if self._refused is not None:
            raise self._refused
        drawn = self._draw(trainer, module, self.n) if self._early is None else self._early
        self._early = None
        return drawn[: self.limit.affordable(len(drawn), self.n)]

    def described(self, trainer: Any, module: Any) -> str:
        """What is sampled, in a line."""
        found = self._source(trainer, module)
        swapped = swaps_averages(trainer.callbacks)
        weights = "averaged weights" if found.averaged else "the weights as they are trained"
        if swapped is not None and not found.averaged and trainer.enable_validation:
            weights = f"the averaged weights of {swapped}"
        for_what = "" if self.condition_key is None else ", for conditions of validation images"
        return f"samples come from {found.name}, with {weights}{for_what}"

    def _source(self, trainer: Any, module: Any) -> FoundSampler:
        setting = Setting(
            lambda: self._image(trainer), lambda: _batches(trainer, self.batch_size), self.condition_key is not None
        )
        return find_sampler(module, self.sampler, setting)

    def _draw(self, trainer: Any, module: Any, n: int) -> Tensor:
        self._draw_conditions(trainer)
        found, context = self._source(trainer, module), trainer.precision_plugin.forward_context
        return draw(module, found, n, self.batch_size, self.seed, context, self.conditions, self.limit)

    def _draw_conditions(self, trainer: Any) -> None:
        if self.condition_key is not None and self.conditions is None:
            with rng_kept():
                self.conditions = draw_conditions(trainer, self.condition_key, self.n, self.seed)

    def _image(self, trainer: Any) -> Tensor:
        if self._example is None:
            with rng_kept():
                self._example = self._first_image(trainer)
        return self._example

    def _first_image(self, trainer: Any) -> Tensor:
        sources = [] if self.train is None else [Source("train=", self.train, shared=False)]
        if not sources and trainer.train_dataloader is not None:
            sources = training_sources(trainer)
        sources += [Source(*pair) for pair in named_loaders(trainer.val_dataloaders, "val_dataloaders").items()]
        for source in sources:
            if (batch := source.first(None, self.image_key)) is not None:
                return batch.images[0].as_subclass(Tensor)
        raise SamplerError(
            "needed a real image to tell the shape of samples; there is none. Pass shape= to the sampler."
        )


def _batches(trainer: Any, batch_size: int) -> Iterable[Any]:
    """Validation batches on the device of the model."""

    def each() -> Iterator[Any]:
        for loader in named_loaders(trainer.val_dataloaders, "val_dataloaders").values():
            for batch in evaluation_loader(loader, batch_size):
                yield trainer.strategy.batch_to_device(batch)

    return each()
