"""One split of a set of slices: how close copies, held-out and novel slices are, by the recipe and by this package."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from common.people import Images, load, shuffled
from omegaconf import DictConfig
from torch import Tensor

from mi_callback import MemorizationDetector
from mi_callback.detection.nulls import train_halves_null
from mi_callback.encoders import Encoder
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.mri_core.paper_code import SIZE, RowProfiles
from mi_callback.images.files import SliceFolder, split_by_subject
from mi_callback.images.perturbations import Perturbation, affine, crop, gaussian_noise, scale_intensity
from mi_callback.retrieval.features import Features
from mi_callback.statistics.indices import memorization_index
from mi_callback.statistics.null import Null
from mi_callback.statistics.set_scores import set_scores

CHANGES: dict[str, Perturbation] = {
    "clean": lambda x, g: x,
    "noise σ .02": lambda x, g: gaussian_noise(x, 0.02, g),
    "intensity × .9": lambda x, g: scale_intensity(x, 0.9),
    "intensity × 1.1": lambda x, g: scale_intensity(x, 1.1),
    "rotation 3°": lambda x, g: affine(x, rotation=3.0),
    "rotation 5°": lambda x, g: affine(x, rotation=5.0),
    "flip, left-right": lambda x, g: x.flip(-1),
    "flip, up-down": lambda x, g: x.flip(-2),
    "crop to 90 %": lambda x, g: crop(x, 0.9),
}
"""The paper's eight, and cropping. Every copy is changed."""


def _sometimes(change: Callable[[Tensor], Tensor]) -> Perturbation:
    """With probability ½ the image as it is: a coin for each."""
    return lambda x, g: torch.where(torch.rand(len(x), generator=g).view(-1, 1, 1, 1) < 0.5, change(x), x)


def _uniform(x: Tensor, g: torch.Generator, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(len(x), generator=g)


COINS: dict[str, Perturbation] = CHANGES | {
    "intensity × .9": lambda x, g: scale_intensity(x, _uniform(x, g, 0.9, 1.0)),
    "intensity × 1.1": lambda x, g: scale_intensity(x, _uniform(x, g, 1.0, 1.1)),
    "rotation 3°": lambda x, g: affine(x, rotation=_uniform(x, g, -3.0, 3.0)),
    "rotation 5°": lambda x, g: affine(x, rotation=_uniform(x, g, -5.0, 5.0)),
    "flip, left-right": _sometimes(lambda x: x.flip(-1)),
    "flip, up-down": _sometimes(lambda x: x.flip(-2)),
}
"""As the paper's public code changes copies: angles and factors are drawn up to the named one, flips are coin flips."""


@dataclass(frozen=True)
class Split:
    """Training, held-out and novel slices."""

    train: Images
    held_out: Images
    novel: Images


@dataclass(frozen=True)
class Batch:
    """All that is looked up in one training set: held-out and novel slices, then copies by change."""

    images: Tensor
    held_out: int
    novel: int
    copies: dict[str, int]

    def parts(self, values: Tensor) -> dict[str, Tensor]:
        sizes = [self.held_out, self.novel, *self.copies.values()]
        return dict(zip(["held_out", "novel", *self.copies], values.split(sizes), strict=True))


def measure(config: DictConfig, name: str, seed: int, coins: bool) -> dict:
    """MI of every image under every method, p-values of ours, and set scores by duplication."""
    split = divide(config, name, seed, by_slice=coins)
    batch = looked_up(config, split, seed, COINS if coins else CHANGES)
    ours = MemorizationDetector(seed=seed)
    train = ours.features(split.train.images, subjects=split.train.subjects, views=True)
    queries = ours.features(batch.images)
    found = {"ours": own(ours, train, queries, split, batch)}
    for recipe in config.recipes:
        found[recipe] = published(recipe, train, queries, split, batch, seed)
    return {
        "methods": found,
        "scores": responses(config, ours, train, queries, batch, seed),
        "counts": {
            part: [len(one), len(one.people)]
            for part, one in (("train", split.train), ("held_out", split.held_out), ("novel", split.novel))
        },
    }


# What is looked up ----------------------------------------------------------------------------------------------------


def divide(config: DictConfig, name: str, seed: int, by_slice: bool) -> Split:
    """Slices of different people; or as the paper does it, of the same."""
    data = config.sets[name]
    folder = SliceFolder(f"{config.data}/{data.folder}", size=(config.side, config.side))
    if data.unknown:
        folder = folder.where(~split_by_subject(folder.subjects, data.unknown))
    every = load(folder, range(len(folder)))
    counts = (config.train, config.held_out, config.novel)
    if by_slice:
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
        ends = [sum(counts[: k + 1]) for k in range(3)]
        return Split(*(every.at(order[end - count : end]) for end, count in zip(ends, counts, strict=True)))
    people, ends = shuffled(sorted(set(every.subjects)), seed), [sum(data.people[: k + 1]) for k in range(3)]
    groups = (people[end - count : end] for end, count in zip(ends, data.people, strict=True))
    return Split(*(every.of(group).spread(count) for group, count in zip(groups, counts, strict=True)))


def looked_up(config: DictConfig, split: Split, seed: int, changes: dict[str, Perturbation]) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(split.train), generator=generator)
    sizes = {change: config.copies.clean if change == "clean" else config.copies.others for change in changes}
    copies = [changes[change](split.train.images[rows[:size]], generator) for change, size in sizes.items()]
    images = torch.cat([split.held_out.images, split.novel.images, *copies])
    return Batch(images, len(split.held_out), len(split.novel), sizes)


# Methods --------------------------------------------------------------------------------------------------------------


def own(detector: MemorizationDetector, train: Features, queries: Features, split: Split, batch: Batch) -> dict:
    """This package as it is by default, against held-out slices."""
    found = detector.match(queries, detector.fit_reference(train), train.thumbnails)
    similarity = found.similarity
    null = Null(similarity[: batch.held_out], split.held_out.subjects, "held_out")
    parts = batch.parts(null.p_values(similarity))
    values = {part: [round(float(p), 5) for p in some] for part, some in parts.items()}
    return {"p": values, "resolves": null.resolves(detector.rule.alpha)} | calibrated(batch, similarity, null)


def published(recipe: str, train: Features, queries: Features, split: Split, batch: Batch, seed: int) -> dict:
    """The paper's recipe: in-sample ZCA, each layer's nearest neighbour, geometric mean, random halves as the null."""
    detector = MemorizationDetector(
        "bundled" if recipe == "bundled" else row_profiles(),
        whitening="zca", poses="none", null="train_halves", verify=False, seed=seed,
    )  # fmt: skip
    if recipe == "bundled":  # as they were encoded for ours
        known, asked = (images.in_pose(0).as_they_are() for images in (train, queries))
    else:
        known = detector.features(split.train.images, subjects=split.train.subjects)
        asked = detector.features(batch.images)
    reference = detector.fit_reference(known)
    null = train_halves_null(known, reference, detector.match, "zca", None, seed, False)
    return calibrated(batch, detector.match(asked, reference, known.thumbnails).similarity, null)


def row_profiles(width: int = 64) -> Encoder:
    """The network of the paper's public code, narrower and with random weights: fifteen numbers a layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RowProfiles(width, 4 * width)
    layers = {f"profiles.{block}": "BC" for block in (3, 7, 11)}
    return HookedEncoder(network, layers, size=SIZE, channels=3, name="row profiles, random weights")


def calibrated(batch: Batch, similarity: Tensor, null: Null) -> dict:
    parts = batch.parts(memorization_index(similarity, null))
    return {"mi": {part: [round(float(mi), 5) for mi in some] for part, some in parts.items()}}


def responses(
    config: DictConfig, detector: MemorizationDetector, train: Features, queries: Features, batch: Batch, seed: int
) -> dict[str, dict[str, float]]:
    """Set scores of the literature by duplication, on shrunk features of the bundled encoder; copies are clean."""
    alone = train.in_pose(0).as_they_are()
    reference = detector.fit_reference(alone)
    parts = batch.parts(reference.whitened(queries.in_pose(0).as_they_are()))
    known = reference.whitened(alone)
    return {
        str(level): set_scores(known, parts["held_out"], mixed(parts, "clean", level), seed) for level in config.levels
    }


def mixed(parts: dict[str, Tensor], change: str, level: int) -> Tensor:
    """A generated set of which `level` per cent are copies, as large as the copies of that change allow at 45 %."""
    size = min(len(parts["novel"]), round(len(parts[change]) / 0.45))
    copies = round(level * size / 100)
    return torch.cat([parts[change][:copies], parts["novel"][: size - copies]])
