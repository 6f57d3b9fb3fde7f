"""One split: what every rule says of copies, of held-out and novel slices, and of novel slices that are unlike them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from common.numbers import kept
from common.people import Images, load
from omegaconf import DictConfig
from paper.measure import CHANGES, Split, divide, looked_up
from paper.measure import measure as measure_paper
from peers.rules import Seen, fitted
from torch import Tensor

from mi_callback import MemorizationDetector
from mi_callback.images.files import SliceFolder, split_by_subject
from mi_callback.images.perturbations import PERTURBATIONS, blur, remap
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import search
from mi_callback.statistics.indices import memorization_index
from mi_callback.statistics.set_scores import set_scores

HARDER = ("rotation_15", "crop_0.7", "half_resolution", "combined", "t2_like")
"""Changes out of `PERTURBATIONS` that the paper does not make."""
SMOOTH = 1.5
"""Blur of novel slices, in pixels: what a decoder leaves out."""
SETS = ("authpct", "ct", "mifid")


def measure(config: DictConfig, name: str, seed: int) -> dict:
    """What rules say of every image, which novel slices this package flags, and set scores."""
    split = divide(config, name, seed, by_slice=False)
    parts = shown(config, split, seed) | unlike(config, name, split, seed)
    detector = MemorizationDetector(seed=seed)
    train = detector.features(split.train.images, subjects=split.train.subjects, views=True)
    known = alone(detector, train)
    seen = {part: look(detector, known, images) for part, images in parts.items()}
    found = everyone(config.steps, detector, split, train, seen)
    own, flagged = ours(config, name, seed, detector, split, train, parts)
    return {
        "rules": {rule: listed(values) for rule, values in found.items()} | {"ours": own},
        "flagged": flagged,
        "sets": sets(known, train, seen, seed),
    }


# What is shown --------------------------------------------------------------------------------------------------------


def shown(config: DictConfig, split: Split, seed: int) -> dict[str, Tensor]:
    """Held-out and novel slices and copies as in the paper's tables, and copies that are changed more."""
    batch = looked_up(config, split, seed, CHANGES)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(split.train), generator=generator)[: config.further]
    harder = {name: PERTURBATIONS[name](split.train.images[rows], generator) for name in HARDER}
    return batch.parts(batch.images) | harder


def unlike(config: DictConfig, name: str, split: Split, seed: int) -> dict[str, Tensor]:
    """Novel slices in another contrast, smooth ones, and of brains some of another site."""
    some, generator = split.novel.images[: config.others], torch.Generator().manual_seed(seed)
    kinds = {"another contrast": remap(some, generator), "smooth": blur(some, SMOOTH)}
    if name == "brain":
        kinds["another site"] = strangers(config).spread(config.others).images
    return kinds


def strangers(config: DictConfig) -> Images:
    """Slices of another source, of people whom the encoder does not know."""
    folder = SliceFolder(f"{config.data}/{config.sets[config.strangers.set].folder}", size=(config.side, config.side))
    folder = folder.where(~split_by_subject(folder.subjects, 0.5))
    rows = [i for i, one in enumerate(folder.slices) if config.strangers.word in one.path.stem]
    return load(folder, rows)


# Who judges -----------------------------------------------------------------------------------------------------------


def alone(detector: MemorizationDetector, train: Features) -> Reference:
    """Whole images in one pose."""
    return detector.fit_reference(train.in_pose(0).as_they_are())


def look(detector: MemorizationDetector, known: Reference, images: Tensor) -> Seen:
    return as_seen(images, detector.features(images, ("identity",), plain=True), known)


def as_seen(images: Tensor, features: Features, known: Reference) -> Seen:
    return Seen(images, torch.cat(list(features.pose(0).values()), dim=1), known.whitened(features))


def everyone(
    steps: Mapping[str, int], detector: MemorizationDetector, split: Split, train: Features, seen: Mapping[str, Seen]
) -> dict[str, dict[str, Tensor]]:
    """All rules but ours, by rule and part."""
    plain = train.in_pose(0).as_they_are()
    known = as_seen(split.train.images, plain, detector.fit_reference(plain))
    rules = fitted(known, split.train.subjects, steps, detector.seed)
    found = {name: {part: rule(one) for part, one in seen.items()} for name, rule in rules.items()}
    zca = Reference.fit(plain, "zca")
    queries = {part: detector.features(one.images, ("identity",), plain=True) for part, one in seen.items()}
    return found | {"recipe": {part: search(zca, some, "geometric").similarity for part, some in queries.items()}}


def ours(
    config: DictConfig, name: str, seed: int, detector: MemorizationDetector, split: Split, train: Features,
    parts: Mapping[str, Tensor],
) -> tuple[dict[str, list[float]], dict[str, list[bool]]]:  # fmt: skip
    """MI of every image, of those in the paper's tables as measured there; and which novel slices are flagged."""
    path = Path(config.paper) / f"{name}-{seed}.json"
    before = kept(path, lambda: measure_paper(config, name, seed, False))["methods"]["ours"]
    held_out = detector.features(split.held_out.images, subjects=split.held_out.subjects)
    state = detector.fit_features(train, held_out).state
    found, flagged = dict(before["mi"]), {"novel": [p <= 0.05 + 1e-9 for p in before["p"]["novel"]]}
    for part in parts:
        if part in found:
            continue
        asked = detector.features(parts[part])
        if part in HARDER:
            similarity = detector.match(asked, state.reference, state.train.thumbnails).similarity
            found[part] = rounded(memorization_index(similarity, state.null))
        else:  # as a set, so that its quality counts
            scores = detector.score_features(asked)
            found[part], flagged[part] = rounded(scores.mi), scores.flagged.tolist()
    return found, flagged


def sets(known: Reference, train: Features, seen: Mapping[str, Seen], seed: int) -> dict[str, dict[str, float]]:
    """Set scores of novel slices of each kind, of clean copies, and of all that are changed."""
    bank = known.whitened(train.in_pose(0).as_they_are())
    changed = torch.cat([one.whitened for part, one in seen.items() if part in HARDER or part in list(CHANGES)[1:]])
    kinds = {part: one.whitened for part, one in seen.items() if part not in CHANGES and part not in HARDER}
    held_out = kinds.pop("held_out")
    kinds |= {"clean copies": seen["clean"].whitened, "changed copies": changed}
    scores = {kind: set_scores(bank, held_out, some, seed) for kind, some in kinds.items()}
    return {kind: {name: values[name] for name in SETS} for kind, values in scores.items()}


def listed(values: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {part: rounded(some) for part, some in values.items()}


def rounded(values: Tensor) -> list[float]:
    return [round(float(value), 6) for value in values]
