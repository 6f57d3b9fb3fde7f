"""Retrieval among subjects that were not trained on, under the settings of the package and others."""

from dataclasses import replace
from pathlib import Path

import torch
from encoder_training.slices import Slices, keep, short_name
from safetensors import safe_open
from torch import Tensor

from mi_callback.encoders import Encoder, build_encoder
from mi_callback.encoders.bundled import TAPPED, WEIGHTS
from mi_callback.encoders.pooling import Pooling
from mi_callback.images import perturbations as change
from mi_callback.images.files import split_by_subject
from mi_callback.images.poses import orbit
from mi_callback.retrieval.extraction import extract
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import search
from mi_callback.retrieval.whitening import WhiteningKind

HARD = ("noise_0.02", "gamma_0.7", "half_resolution", "crop_0.9", "shift_0.1", "rotation_15", "inverted", "combined")
"""Changes by which settings are compared."""


def measure(out: Path, folder: Slices) -> list[list[str]]:
    """Retrieval among subjects that were not trained on: half of them are the training set, the others are novel."""
    inside = split_by_subject(folder.subjects, 0.5, seed=1)
    known, novel = keep(folder, inside), keep(folder, ~inside)
    encoder = build_encoder("bundled", checkpoint=out / WEIGHTS)

    def features(images: Tensor, subjects: list[str], poses: list[str]) -> Features:
        return extract(images[:, None].float() / 255, encoder, poses, subjects=subjects)

    reference = Reference.fit(features(known.images, known.subjects, ["identity"]), "shrunk")
    clean = search(reference, features(novel.images, novel.subjects, orbit("flips")), "geometric").similarity
    generator = torch.Generator().manual_seed(0)
    queries = torch.randperm(len(known.images), generator=generator)[:200]
    subjects = [known.subjects[i] for i in queries]
    rows = []
    for name, perturb in change.PERTURBATIONS.items():
        copies = perturb(known.images[queries][:, None].float() / 255, generator)[:, 0].mul(255).round().to(torch.uint8)
        found = search(reference, features(copies, subjects, orbit("flips")), "geometric", candidates=8)
        first = (found.match == queries).float().mean()
        recall = (found.candidates.row == queries[:, None]).any(dim=1).float().mean()
        above = (found.similarity[:, None] > clean).double() + 0.5 * (found.similarity[:, None] == clean)
        rows.append(
            [
                short_name(folder.name),
                name,
                str(len(queries)),
                f"{first:.3f}",
                f"{recall:.3f}",
                f"{above.mean():.3f}",
            ]
        )
    return rows


def ablate(out: Path, folder: Slices) -> list[list[str]]:
    """Retrieval as in `measure`, mean over `HARD`, under other whitenings, layers and poolings than the default."""
    hard = HardCopies(folder)
    rows = []
    for pooling in ("gem", "mean", "mean_std"):
        encoder = build_encoder("bundled", checkpoint=out / WEIGHTS)
        encoder.pooling = Pooling(pooling)
        features = hard.features(encoder)
        variants = [("shrunk", TAPPED)]
        if pooling == "gem":
            variants += [(whitening, TAPPED) for whitening in ("zca", "pca", "standard", "none")]
            variants += [("shrunk", layers) for layers in (TAPPED[:1], TAPPED[1:2], TAPPED[2:], TAPPED[:2], TAPPED[1:])]
        for whitening, layers in variants:
            part = {
                name: replace(f, layers={layer: f.layers[layer] for layer in layers}) for name, f in features.items()
            }
            stages = "+".join(str(TAPPED.index(layer) + 2) for layer in layers)
            rows.append([short_name(folder.name), pooling, whitening, stages, *hard.found(part, whitening)])
    return rows


def compare(trainings: list[Path], folder: Slices) -> list[list[str]]:
    """The same under the default settings, for networks of other widths."""
    hard = HardCopies(folder)
    rows = []
    for training in trainings:
        encoder = build_encoder("bundled", checkpoint=training / WEIGHTS)
        with safe_open(training / WEIGHTS, framework="pt") as file:
            steps = (file.metadata() or {}).get("steps", "?")
        network = encoder.network
        widths = ", ".join(str(stage.norm.num_features) for stage in network.stages)
        parameters = f"{sum(p.numel() for p in network.parameters()):,}"
        rows.append([short_name(folder.name), widths, parameters, steps, *hard.found(hard.features(encoder), "shrunk")])
    return rows


class HardCopies:
    """Up to 200 slices of half of the subjects under each change of `HARD`, to be looked up among that half."""

    def __init__(self, folder: Slices) -> None:
        inside = split_by_subject(folder.subjects, 0.5, seed=1)
        known, novel = keep(folder, inside), keep(folder, ~inside)
        generator = torch.Generator().manual_seed(0)
        self.subjects = known.subjects
        self.queries = torch.randperm(len(known.images), generator=generator)[:200]
        self.images = {"known": known.images[:, None].float() / 255, "novel": novel.images[:, None].float() / 255}
        copied = self.images["known"][self.queries]
        self.images |= {name: change.PERTURBATIONS[name](copied, generator) for name in HARD}

    def features(self, encoder: Encoder) -> dict[str, Features]:
        return {name: extract(images, encoder, orbit("flips")) for name, images in self.images.items()}

    def found(self, features: dict[str, Features], whitening: WhiteningKind) -> tuple[str, str]:
        """Recall among eight candidates, and AUC against novel slices, mean over the changes."""
        reference = Reference.fit(replace(features["known"], subjects=self.subjects).in_pose(0), whitening)
        clean = search(reference, features["novel"], "geometric").similarity
        found = [search(reference, features[name], "geometric", candidates=8) for name in HARD]
        recall = [(f.candidates.row == self.queries[:, None]).any(dim=1).double().mean() for f in found]
        areas = [(f.similarity[:, None] > clean).double().mean() for f in found]
        return f"{sum(recall) / len(recall):.3f}", f"{sum(areas) / len(areas):.3f}"
