"""One generator: trained with the callback, its samples told apart by marks and registration, and by the detector."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from common.people import Images, read, shuffled
from lightning.pytorch.callbacks import Callback
from memorization.families import FAMILIES
from memorization.truth import PARTS, PATTERNS, mark, marks_of, registered
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mi_callback import MemorizationCallback, MemorizationDetector, Scores
from mi_callback.images.files import SliceFolder, split_by_subject


class Rows(Dataset[dict[str, Any]]):
    """Images with their people; some of them may be there several times."""

    def __init__(self, images: Images, rows: Sequence[int]) -> None:
        self.images, self.rows = images, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self.rows[place]
        return {"image": self.images.images[row], "subject": self.images.subjects[row]}


class Looks(Callback):
    """What the callback before it found at each validation, the samples, and the losses."""

    def __init__(self, watched: MemorizationCallback) -> None:
        self.watched, self.samples, self.logged = watched, list[Tensor](), list[dict[str, float]]()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.watched.samples is not None
        self.samples.append(self.watched.samples.clone())
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def measure(config: DictConfig, family: str, size: str) -> dict[str, Any]:
    """Trains one family on one training set; what every look says, and the truth about the samples of each."""
    train, held_out, wrong = sides(config, size)
    rows = repeated(train, config.repeated) if size == "repeated" else range(len(train))
    lightning.seed_everything(config.seed, verbose=False)
    watch = MemorizationCallback(
        n_samples=config.samples, seed=config.seed, power=config.power, set_scores=True, on_error="raise",
        detector={"seed": config.seed, **config.detector},
    )  # fmt: skip
    looks = Looks(watch)
    fit(config, family, Rows(train, rows), Rows(held_out, range(len(held_out))), [watch, looks])
    truths = [truth(samples, train) for samples in looks.samples]
    judged = zip(watch.history, looks.logged, truths, strict=True)
    return {
        "null": {part: rounded(registered(held_out.images, train.images, lines)[0]) for part, lines in PARTS.items()},
        "sizes": [len(train), len(rows)],
        "looks": [look(record.scores, seen, rows) | logged for record, logged, seen in judged],
        "images": of_images(train, rows, Path(config.data) / config.folder),
        "wrong": against_others(config, wrong, held_out, looks.samples[-1]),
    }  # fmt: skip


# Data -----------------------------------------------------------------------------------------------------------------


def sides(config: DictConfig, size: str) -> tuple[Images, Images, Images]:
    """Training, held-out and other people's images; of each side the same share bears marks, each its own."""
    folder = SliceFolder(f"{config.data}/{config.folder}", size=(config.side, config.side))
    known, count = split_by_subject(folder.subjects, config.known), config.slices[size]
    strangers, others = (shuffled(sorted(set(folder.where(rows).subjects)), config.seed) for rows in (~known, known))
    first, second, third = config.people
    parts = strangers[:first], strangers[first:][:second], others[:third]
    train = read(folder, set(parts[0]), 99).spread(count)
    each = min(config.held_out, math.ceil(count / len(train.people)))
    others = [read(folder, set(part), 99).spread(each * len(part)) for part in parts[1:]]
    share = min(config.canaries, config.marks / max(map(len, (train, *others))))
    marks = iter(shuffled([str(number) for number in range(len(PATTERNS))], config.seed))
    marked = [with_marks(side, [int(one) for one in islice(marks, round(share * len(side)))])
              for side in (train, *others)]  # fmt: skip
    return marked[0], marked[1], marked[2]


def with_marks(side: Images, marks: Sequence[int]) -> Images:
    """Images at equal distances bear a mark each."""
    images = side.images.clone()
    rows = [int((place + 0.5) / len(marks) * len(side)) for place in range(len(marks))]
    images[rows] = mark(images[rows], list(marks))
    return Images(images, side.subjects)


def repeated(train: Images, times: Sequence[int]) -> list[int]:
    """Rows of the images, those of every third person once, of the next several times, and so on."""
    often = {person: times[place % len(times)] for place, person in enumerate(sorted(train.people))}
    return [row for row, person in enumerate(train.subjects) for _ in range(often[person])]


# Training and truth ---------------------------------------------------------------------------------------------------


def fit(config: DictConfig, family: str, train: Rows, held_out: Rows, callbacks: list[Callback]) -> None:
    """Epochs of equally many steps, however large the set is."""
    how = config.families[family]
    sampler = RandomSampler(train, replacement=True, num_samples=how.steps * how.batch)
    module = FAMILIES[family](train.images.images)
    trainer = lightning.Trainer(
        max_epochs=config.looks, accelerator="cpu", devices=1, callbacks=callbacks, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=config.kept,
    )  # fmt: skip
    trainer.fit(module, DataLoader(train, how.batch, sampler=sampler), DataLoader(held_out, how.batch))


def truth(samples: Tensor, train: Images) -> dict[str, Any]:
    """Of each sample: how close its parts are, the training image that one of them is closest to, and the one whose
    mark it bears, if any.
    """
    found = {part: registered(samples, train.images, rows) for part, rows in PARTS.items()}
    closeness, rows = (torch.stack(values) for values in zip(*found.values(), strict=True))
    closest = rows.gather(0, closeness.argmax(dim=0)[None])[0]
    bearers = {number: row for row, number in enumerate(marks_of(train.images)) if number is not None}
    return {
        "correlation": dict(zip(found, map(rounded, closeness), strict=True)),
        "closest": closest.tolist(),
        "marked": [None if number is None else bearers.get(number) for number in marks_of(samples)],
    }


def look(scores: Scores, seen: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """What the detector says beside the truth."""
    return seen | {
        "verdict": str(scores.verdict),
        "doubts": scores.doubts,
        "flagged": scores.flagged.tolist(),
        "mi": rounded(scores.mi),
        "match": [int(rows[row]) for row in scores.match.tolist()],
        "rate": list(scores.rate_interval()),
    }


def of_images(train: Images, rows: Sequence[int], folder: Path) -> dict[str, list[Any]]:
    """Of every training image: at which site it was made, and how often it is in the data."""
    with (folder.parent / "manifest.csv").open() as file:
        sites = {row["subject"]: row["note"] for row in csv.DictReader(file)}
    times = Counter(rows)
    return {
        "site": [sites[subject] for subject in train.subjects],
        "times": [times[row] for row in range(len(train))],
    }


def against_others(config: DictConfig, others: Images, held_out: Images, samples: Tensor) -> dict[str, Any]:
    """The same samples against people whom the generator never saw."""
    detector = MemorizationDetector(seed=config.seed, **config.detector)
    detector.fit(others.images, others.subjects, held_out.images, held_out.subjects)
    scores = detector.score(samples)
    return {"verdict": str(scores.verdict), "flagged": scores.flagged.tolist()}


def rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def path_of(config: DictConfig, family: str, size: str) -> Path:
    return Path(config.kept) / f"{family}-{size}.json".replace(" ", "-")
