"""Which samples a validation is scored on: when they are drawn, for which conditions, and what they are drawn from."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, islice, takewhile
from typing import Any

import torch
from torch import Tensor

from mi_callback.errors import DataError, SamplerError
from mi_callback.lightning.data.loaders import evaluation_loader, named_loaders
from mi_callback.lightning.data.sides import Source, fetch_validation_loaders, training_sources
from mi_callback.lightning.randomness import rng_kept
from mi_callback.lightning.ranks import Ranks, guarded, raise_told, sharded, told
from mi_callback.lightning.samplers import FoundSampler, ReadySampler, Setting, StepSampler
from mi_callback.lightning.samplers.averages import buffers_of_zero, swaps_averages
from mi_callback.lightning.samplers.conditions import Conditions, draw_conditions
from mi_callback.lightning.samplers.found import NoMoreImages
from mi_callback.lightning.sampling import draw, draw_batches, find_sampler, together
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
        self._drawn: _Drawn | None = None
        self._when = _When.EARLY
        self._done = False
        self._refused: Exception | None = None
        self._example: Tensor | None = None

    def try_out(self, trainer: Any, module: Any) -> None:
        """Draw two images before training: a sampler that cannot work is said now.

        Raises:
            SamplerError: If it does not.
            DataError: If there are no conditions to draw images for.
        """
        ranks = Ranks.of(trainer)
        with ranks.together():
            if self.condition_key is not None or isinstance(self.sampler, StepSampler):
                fetch_validation_loaders(trainer)
        self._draw_conditions(trainer)
        self.limit.begin()
        with ranks.together(), suppress(DataError, TimeUp):  # what an untrained generator draws may be constant
            found, context = self._source(trainer, module), trainer.precision_plugin.forward_context
            if not found.late:
                draw(module, found, TRIED, self.batch_size, self.seed, context, self.conditions, self.limit)

    def begin(self, trainer: Any) -> None:
        """A validation begins."""
        self._drawn, self._refused, self._done = None, None, False
        self.limit.begin()
        if isinstance(self.sampler, StepSampler):
            self.sampler.begin()
        if not trainer.sanity_checking and not trainer.fast_dev_run:
            self._when = _when(trainer)
            self._refused = guarded(lambda: self._draw_conditions(trainer))

    def draw_early(self, trainer: Any, module: Any) -> None:
        """Draw while averaged weights are in place; what fails is raised where samples are asked for."""
        late = isinstance(self.sampler, StepSampler) and self.sampler.late
        if self._when is not _When.AT_THE_END and not late:
            self._draw(trainer, module)
            # Steps of the module may exchange values, and give up when one rank draws for longer.
            if self._when is _When.EARLY:
                Ranks.of(trainer).wait()

    def take(self, outputs: Any) -> None:
        """See what `validation_step` returned; what cannot be taken is raised where the samples are asked for."""
        sampler = self.sampler
        if isinstance(sampler, StepSampler) and sampler.late and self._refused is None:
            self._refused = guarded(lambda: sampler.take(outputs, self.n))

    def names(self, n: int) -> list[str] | None:
        """A name for what each of the first n samples was drawn for; see `Conditions.names`."""
        return None if self.conditions is None else self.conditions.names(n)

    def samples(self, trainer: Any, module: Any) -> Tensor | None:
        """The samples of this validation, drawn by all ranks: as many as were asked for, or as there is time to score.

        Returns:
            On rank zero the images, in an order that does not depend on the number of ranks; None on others.

        Raises:
            SamplerError, DataError: As `draw`; where another rank has a problem, as `raise_told`, on rank zero.
            TimeUp: If there is time for none, or for fewer than can be judged as all are.
        """
        ranks = Ranks.of(trainer)
        # Every rank that draws goes here or none does, unless rank zero draws alone.
        if not self._done:
            self._draw(trainer, module)
        problem = self._refused
        each = ranks.gather((self._drawn or _Drawn(cut=self.limit.cut), told(problem)))
        self._drawn = None
        if not ranks.first:
            if problem is not None:
                raise problem
            return None
        drawn = [one for one, _ in each]
        # Where time was up on some ranks, the others may have drawn enough.
        if not any(one.batches for one in drawn) or any(one is not None and not one.time for _, one in each):
            raise_told([one for _, one in each], problem)
        if any(one.cut for one in drawn):
            self.limit.shorten()
        images = self._in_order(drawn)
        return images[: self.limit.affordable(len(images), self.n)]

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

    def _draw(self, trainer: Any, module: Any) -> None:
        """Draw this rank's share of the samples; all of them where rank zero draws alone."""
        ranks, self._done = Ranks.of(trainer), True
        if self._when is _When.BY_ZERO:
            if not ranks.first:
                return
            ranks = Ranks()

        def work() -> None:
            self._drawn = self._share(trainer, module, ranks.share)

        with nullcontext() if sharded(trainer) else buffers_of_zero(ranks, module):
            self._refused = self._refused or guarded(work)

    def _share(self, trainer: Any, module: Any, share: tuple[int, int]) -> "_Drawn":
        found, context = self._source(trainer, module), trainer.precision_plugin.forward_context
        first, step = (0, 1) if found.late else share
        count = -(-self.n // self.batch_size)
        if sharded(trainer):  # all ranks draw equally often; what is too much is left out in the end
            count = step * -(-count // step)
        numbers, how = range(first, count, step), (context, self.conditions, self.limit)
        try:
            batches = draw_batches(module, found, self.n, self.batch_size, self.seed, numbers, *how)
        except NoMoreImages as reason:
            return _Drawn(why=str(reason), late=found.late)
        return _Drawn(batches, found.late, self.limit.cut)

    def _in_order(self, drawn: list["_Drawn"]) -> Tensor:
        """What all ranks drew, as one process would have: they take turns with batches, and with validation images."""
        drawn = drawn[:1] if self._when is _When.BY_ZERO else drawn
        parts = [
            [one for batch in rank.batches for one in batch.split(1 if rank.late else len(batch))] for rank in drawn
        ]
        turns: list[Tensor] = []
        for turn in range(max(map(len, parts))):
            given = [part[turn] if turn < len(part) else None for part in parts]
            if any(one is None for one in given) and self.conditions is not None:
                # What comes after a gap was drawn for other conditions than would be counted.
                turns += takewhile(lambda one: one is not None, given)  # type: ignore[arg-type]
                break
            turns += [one for one in given if one is not None]
        if not turns:
            raise SamplerError(f"needed samples; {next((one.why for one in drawn if one.why), 'none were drawn')}.")
        with torch.inference_mode(False):  # in which validation may run, and whose tensors cannot be used further
            return together(turns)[: self.n]

    def _draw_conditions(self, trainer: Any) -> None:
        if self.condition_key is None or self.conditions is not None:
            return
        ranks = Ranks.of(trainer)
        with ranks.together(), rng_kept():
            if ranks.first:
                self.conditions = draw_conditions(trainer, self.condition_key, self.n, self.seed)
        self.conditions = ranks.from_zero(self.conditions)

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


class _When(Enum):
    """When samples are drawn at a validation, and by whom."""

    EARLY = "by all ranks, at the first validation batch, which each of them has"
    AT_THE_END = "by all ranks, after the validation batches"
    BY_ZERO = "by rank zero, at its first validation batch: averaged weights are in place, and others may have none"


def _when(trainer: Any) -> _When:
    ranks = Ranks.of(trainer)
    if all(ranks.all(_validates(trainer))):
        return _When.EARLY
    if ranks.size == 1:
        return _When.BY_ZERO
    averages = swaps_averages(trainer.callbacks) is not None and not sharded(trainer)
    return _When.BY_ZERO if averages else _When.AT_THE_END


@dataclass(frozen=True)
class _Drawn:
    """What a rank drew.

    Attributes:
        batches: Every so manieth of the batches of all ranks.
        late: Whether they come from validation batches, of which each rank has a share.
        cut: Whether time was up.
        why: Why there is none.
    """

    batches: list[Tensor] = field(default_factory=list)
    late: bool = False
    cut: bool = False
    why: str = ""


def _batches(trainer: Any, batch_size: int) -> Iterable[Any]:
    """This rank's share of the validation batches, on the device of the model."""

    def each() -> Iterator[Any]:
        loaders = named_loaders(trainer.val_dataloaders, "val_dataloaders").values()
        whole = chain.from_iterable(evaluation_loader(loader, batch_size) for loader in loaders)
        first, step = Ranks.of(trainer).share
        for batch in islice(whole, first, None, step):
            yield trainer.strategy.batch_to_device(batch)

    return each()


def _validates(trainer: Any) -> bool:
    """Whether this rank has a first validation batch, for certain."""
    counts = trainer.num_val_batches
    first = next(iter(counts), 0) if isinstance(counts, list) else counts
    return 0 < first < float("inf")
