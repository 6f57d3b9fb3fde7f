"""What the Trainer trains on and what it validates on: which loaders, which of their rows, and why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mi_callback.errors import MemorizationError
from mi_callback.images.batches import Batch, read_batch
from mi_callback.lightning.data.copying import private_copy
from mi_callback.lightning.data.loaders import (
    WHOLE,
    check_end,
    evaluation_loader,
    is_random,
    is_stream,
    named_loaders,
)
from mi_callback.lightning.data.rows import base_rows, reachable_rows
from mi_callback.lightning.randomness import rng_kept
from mi_callback.types import SubjectKey


@dataclass(frozen=True)
class Source:
    """A loader or data set, and what of it counts.

    Attributes:
        name: Where the Trainer has it, or the option that gave it.
        data: A DataLoader, a Dataset, a tensor, or an iterable of batches.
        shared: Whether training reads it too.
        rows: Rows that can be drawn; None for all of them, or for a stream.
        limit: Batches of a stream that make an epoch; None where it ends by itself.
    """

    name: str
    data: Any = field(repr=False)
    shared: bool = True
    rows: Sequence[Any] | None = field(default=None, repr=False)
    limit: int | None = None

    @property
    def stream(self) -> bool:
        """Whether items have no positions."""
        return is_stream(self.data)

    def batches(self, batch_size: int, share: tuple[int, int] = WHOLE) -> Iterable[Any]:
        """All that counts, or a rank's share of it, once, without a trace in what training reads."""
        return evaluation_loader(self.data, batch_size, self.shared, self.rows, self.limit, share)

    @property
    def size(self) -> int:
        """Number of rows, of items or of batches; −1 of a stream, which has none."""
        if self.stream:
            return -1
        if self.rows is not None:
            return len(self.rows)
        try:
            return len(self.data)
        except TypeError:
            return -1

    def random(self, image_key: SubjectKey) -> bool:
        """Whether images change at random whenever they are read."""
        return is_random(self.data, image_key, self.shared, self.rows)

    @property
    def count(self) -> int:
        """Number of images; 0 where it is not known before they are read."""
        if self.stream or isinstance(self.data, (list, tuple)) or getattr(self.data, "batch_size", 1) is None:
            return 0
        return _length(_dataset(self.data)) if self.rows is None else len(self.rows)

    def first(self, subject_key: SubjectKey, image_key: SubjectKey) -> Batch | None:
        """A batch of one image, or of a stream its first; None where it is empty, or an iterable of the user's, which
        may be read but once.
        """
        if not self.shared and not isinstance(self.data, DataLoader) and not hasattr(self.data, "__getitem__"):
            return None
        rows = self.rows[:1] if self.rows is not None else None
        data = self.data[:1] if hasattr(self.data, "ndim") else self.data
        batches = evaluation_loader(data, 1, self.shared, rows, 1 if self.stream else None)
        if hasattr(data, "ndim"):
            batches = [data]
        batch = next(iter(batches), None)
        return None if batch is None else read_batch(batch, subject_key, image_key)

    def at(self, places: Sequence[int]) -> "Source":
        """Some of its rows, by their positions among those that count."""
        if hasattr(self.data, "ndim"):
            return replace(self, data=self.data[places])
        return replace(self, rows=[self._whole[place] for place in places])

    def sample(
        self, n: int, seed: int, subject_key: SubjectKey, image_key: SubjectKey
    ) -> tuple[list[int], list[Batch]]:
        """Up to n rows drawn at random, the first one and the last: their positions, and each as a batch of its own.

        Nothing of what lies in memory, and of what may be read but once.
        """
        loader = self.data if isinstance(self.data, DataLoader) else None
        dataset = _dataset(self.data)
        if loader is None and not isinstance(dataset, Dataset):
            return [], []
        collate = default_collate if loader is None else loader.collate_fn
        one_by_one = loader is None or loader.batch_sampler is not None
        count = len(self._whole)
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n].tolist()
        places = sorted({*drawn, 0, count - 1}) if count else []
        copied = private_copy(dataset, self.shared)
        items = (copied[self._whole[place]] for place in places)
        batches = (collate([item]) if one_by_one else collate(item) for item in items)
        return places, [read_batch(batch, subject_key, image_key) for batch in batches]

    @property
    def _whole(self) -> Sequence[Any]:
        """All rows that count."""
        return range(len(_dataset(self.data))) if self.rows is None else self.rows

    def __str__(self) -> str:
        if self.limit is not None:
            return f"{self.name} (a stream: one epoch's worth, {self.limit} batches)"
        if self.rows is None or not isinstance(self.data, DataLoader):
            return self.name
        whole = _length(self.data.dataset)
        return (
            f"{self.name} ({len(self.rows)} of {whole} rows)" if len(self.rows) != whole else f"{self.name} ({whole})"
        )


@dataclass(frozen=True)
class Sides:
    """What is searched, and what makes the null.

    Attributes:
        train: Sources of training images.
        held_out: Sources of real images that are not trained on; empty where the null is made from training subjects.
        left_out: Validation loaders that do not serve, and why.
        subject_key, image_key: Where batches hold ids and images.
    """

    train: Sequence[Source]
    held_out: Sequence[Source]
    left_out: Sequence[str] = ()
    subject_key: SubjectKey = None
    image_key: SubjectKey = None

    @property
    def keys(self) -> dict[str, Any]:
        """As `MemorizationDetector.fit` takes them."""
        return {"subject_key": self.subject_key, "image_key": self.image_key}

    def training(self, batch_size: int) -> Any:
        """All training images, once."""
        return _joined(self.train, batch_size)

    def novel(self, batch_size: int) -> Any:
        """All held-out images, once; None where there are none."""
        return _joined(self.held_out, batch_size) if self.held_out else None

    def random(self) -> bool:
        """Whether a training set changes its images at random."""
        return any(one.random(self.image_key) for one in self.train)

    def check_ends(self, batch_size: int) -> None:
        """Refuse training streams that have no end in sight, before anything is encoded."""
        for source in self.train:
            if source.stream and source.shared and source.limit is None:
                check_end(source.batches(batch_size), self.subject_key, self.image_key)

    def __str__(self) -> str:
        first = self.train[0].first(self.subject_key, self.image_key)
        text = f"searched are {' and '.join(map(str, self.train))}"
        if first is not None:
            text += f", images from {first.place}, "
            text += f"subjects {first.rule}" if first.rule else "no subject ids"
        told = {getattr(_dataset(source.data), "subject_rules", None) for source in self.train} - {None}
        text += "".join(f" ({rules})" for rules in told)
        text += f"; held out are {' and '.join(map(str, self.held_out)) or 'none'}"
        return text + "".join(f"; left out is {reason}" for reason in self.left_out)


def sides_of(
    trainer: Any, train: Any, held_out: Any, wanted: bool, subject_key: SubjectKey, image_key: SubjectKey
) -> Sides:
    """Both sides, from the Trainer where the user gave none.

    Args:
        trainer: With its loaders.
        train, held_out: The user's own; None for the Trainer's.
        wanted: Whether held-out images are used at all.
        subject_key, image_key: Where batches hold ids and images.

    Raises:
        DataError: If what can be drawn of a training loader cannot be known.
    """
    with rng_kept():
        sources = training_sources(trainer) if train is None else [Source("train=", train, shared=False)]
        if not wanted:
            return Sides(sources, [], ["validation data, for the null is made from training subjects"] * (
                held_out is None and bool(named_loaders(trainer.val_dataloaders, "v"))
            ), subject_key, image_key)  # fmt: skip
        if held_out is not None:
            return Sides(sources, [Source("held_out=", held_out, shared=False)], (), subject_key, image_key)
        novel, reasons = _held_out_sources(trainer, sources, subject_key, image_key)
        return Sides(sources, novel, reasons, subject_key, image_key)


def training_sources(trainer: Any) -> list[Source]:
    """Every training loader, with the rows that it can draw."""
    loaders = named_loaders(trainer.train_dataloader, "train_dataloader")
    return [_source(name, loader, _batches_of_an_epoch(trainer)) for name, loader in loaders.items()]


def fetch_validation_loaders(trainer: Any) -> None:
    """Have the Trainer make its validation loaders now, as its sanity check does, where that was off."""
    if trainer.enable_validation and trainer.val_dataloaders is None:
        with rng_kept():
            trainer.fit_loop.epoch_loop.val_loop.setup_data()


def _held_out_sources(
    trainer: Any, train: Sequence[Source], subject_key: SubjectKey, image_key: SubjectKey
) -> tuple[list[Source], list[str]]:
    """Validation loaders that can serve, and why the others cannot."""
    found: list[Source] = []
    reasons: list[str] = []
    trained = [base_rows(one.data, one.rows) for one in train]
    limits = _validation_limits(trainer)
    for position, (name, loader) in enumerate(named_loaders(trainer.val_dataloaders, "val_dataloaders").items()):
        if trainer.overfit_batches > 0:
            reasons.append(f"{name}: overfit_batches validates on what is trained on")
            continue
        source = _source(name, loader, limits[position] if position < len(limits) else None)
        source, reason = _not_trained_on(source, trained)
        reason = reason or _unreadable(source, subject_key, image_key)
        if reason:
            reasons.append(f"{name}: {reason}")
        else:
            found.append(source)
    return found, reasons


def _not_trained_on(source: Source, trained: Sequence[tuple[int, set[Any] | None]]) -> tuple[Source, str | None]:
    """The rows of a source that no training loader can draw, and why it cannot serve if there are none."""
    base, own = base_rows(source.data, source.rows)
    taken = [rows for other, rows in trained if other == base]
    if not taken:
        return source, None
    if own is None or None in taken or source.rows is None:
        return source, "it reads what is trained on"
    together = set().union(*(rows for rows in taken if rows is not None))
    kept = [row for row in source.rows if not base_rows(source.data, [row])[1] <= together]  # type: ignore[operator]
    if not kept:
        return source, "all of its rows are trained on"
    return Source(source.name, source.data, source.shared, kept, source.limit), None


def _unreadable(source: Source, subject_key: SubjectKey, image_key: SubjectKey) -> str | None:
    """Why images cannot be read from a source."""
    try:
        first = source.first(subject_key, image_key)
    except MemorizationError as error:
        return f"no images can be read from it ({error})"
    if first is None:
        return "it is empty"
    return None if first.images.ndim in (4, 5) else f"its tensors of shape {tuple(first.images.shape)} are no images"


def _source(name: str, loader: Any, limit: int | None) -> Source:
    rows = reachable_rows(loader) if isinstance(loader, DataLoader) else None
    return Source(name, loader, rows=rows, limit=limit if is_stream(loader) else None)


def _batches_of_an_epoch(trainer: Any) -> int | None:
    """Batches that an epoch has at most; None where nothing bounds it."""
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps > 0 else float("inf")
    limit = min(trainer.num_training_batches, steps)
    return None if limit == float("inf") else int(limit)


def _validation_limits(trainer: Any) -> list[int | None]:
    found = trainer.num_val_batches
    return [None if n == float("inf") else int(n) for n in (found if isinstance(found, list) else [found])]


def _joined(sources: Sequence[Source], batch_size: int) -> Any:
    parts = [source.batches(batch_size) for source in sources]
    return parts[0] if len(parts) == 1 else chain.from_iterable(parts)


def _dataset(data: Any) -> Any:
    return getattr(data, "dataset", data)


def _length(sized: Any) -> int:
    try:
        return len(sized)
    except TypeError:
        return 0
