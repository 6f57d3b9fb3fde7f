"""Are generators that copied nobody cleared? `make bench-generators` (hours). Writes RESULTS.md beside this file.

Slices of $MI_CALLBACK_DATA are split by subject into training people, held-out people and strangers. Everything that is
judged was made of strangers alone: their slices as they are, blurred, noisy, at half resolution, compressed; and
samples of generators that were trained on them. Audited against the training people, whom no generator saw, nothing may
be flagged more often than alpha; against the strangers themselves, copies should be. Copies of training images, changed
in the same way, show what this costs. What is measured is kept in outputs/generators: an interrupted run goes on.
"""

import io
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from models import train_adversarial, train_autoencoder
from PIL import Image
from scipy import stats
from torch import Tensor

from mi_callback import MemorizationDetector, Scores, __version__
from mi_callback.images.files import SliceFolder, split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import PERTURBATIONS
from mi_callback.images.perturbations.acquisition import blur, gaussian_noise, k_space_truncation, low_resolution
from mi_callback.images.preprocessing import check_images
from mi_callback.lightning.loggers import markdown_table
from mi_callback.statistics.conformal import at_most

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from common.numbers import kept, timed
from common.pages import write_page
from latent_diffusion import LatentDiffusion

SIDE, SAMPLES, COPIES, SEEDS, ALPHA = 96, 48, 16, range(5), 0.05
HERE, KEPT = Path(__file__).parent, Path("outputs/generators")


@dataclass(frozen=True)
class Set:
    """Slices, and how their people are divided.

    Attributes:
        folder: Of the slices.
        trained_on: Share of its subjects on which the encoder was trained (MODEL_CARD.md).
        shares: Of the remaining people, training and held-out ones; the others are strangers.
        slices: Of a person, at most, that are searched or held out.
        taught: Of a stranger, at most, that generators are trained on.
    """

    folder: str
    trained_on: float
    shares: tuple[float, float]
    slices: int
    taught: int


SETS = {
    "Brain T1 (ixi_t1)": Set("ixi_t1/slices", 0.5, (1 / 3, 1 / 3), slices=3, taught=6),
    "Lumbar spine (spider_lumbar)": Set("spider_lumbar/slices", 0.0, (0.2, 0.6), slices=3, taught=20),
}


def compressed(images: Tensor, quality: int) -> Tensor:
    """JPEG."""
    found = []
    for image in images[:, 0]:
        file = io.BytesIO()
        Image.fromarray((image.clamp(0, 1) * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))).float() / 255)
    return torch.stack(found)[:, None]


DEGRADED: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "as they are": lambda x, g: x,
    "blurred by .7 px": lambda x, g: blur(x, 0.7),
    "blurred by 1.5 px": lambda x, g: blur(x, 1.5),
    "blurred by 2 px": lambda x, g: blur(x, 2.0),
    "half resolution": lambda x, g: low_resolution(x, 2),
    "noise .03": lambda x, g: gaussian_noise(x, 0.03, g),
    "noise .1": lambda x, g: gaussian_noise(x, 0.1, g),
    "JPEG, quality 20": lambda x, g: compressed(x, 20),
    "ringing, .6 of k-space": lambda x, g: k_space_truncation(x, 0.6),
}


def trained(images: Tensor, seed: int) -> dict[str, Callable[[int], Tensor]]:
    """Generators of these images, and how each is sampled."""
    early, late = (diffusion(images, steps, seed) for steps in (300, 6000))
    return {
        "latent diffusion, early": early.sample,
        "latent diffusion, late": late.sample,
        "VAE": train_autoencoder(images, 400, seed).sample,
        "GAN": train_adversarial(images, 250, seed).sample,
    }


def diffusion(images: Tensor, steps: int, seed: int) -> LatentDiffusion:
    torch.manual_seed(seed)
    model = LatentDiffusion(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=model.learning_rate, weight_decay=0.0)
    latents = model.encode(images)
    for _ in range(steps):
        loss = model.loss(latents[torch.randint(len(latents), (64,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# Measuring ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """Images of some people."""

    images: Tensor
    subjects: list[str]

    def thin(self, most: int) -> "Side":
        """At most so many of each person, evenly spread."""
        rows: list[int] = []
        for subject in dict.fromkeys(self.subjects):
            own = [i for i, s in enumerate(self.subjects) if s == subject]
            rows += own[:: -(-len(own) // most)]
        return Side(self.images[rows], [self.subjects[i] for i in rows])


def divide(root: Path, data: Set, seed: int) -> tuple[Side, Side, Side]:
    """Training people, held-out people and strangers."""
    folder = SliceFolder(root / data.folder, size=(SIDE, SIDE))
    if data.trained_on:
        folder = folder.where(~split_by_subject(folder.subjects, data.trained_on))
    people = sorted(set(folder.subjects))
    order = torch.randperm(len(people), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = (round(share * len(people)) for share in (data.shares[0], sum(data.shares)))
    sides = []
    for part in (order[:first], order[first:second], order[second:]):
        chosen = {people[i] for i in part}
        rows = [i for i, subject in enumerate(folder.subjects) if subject in chosen]
        images = check_images(torch.stack([folder[i]["image"] for i in rows]))
        sides.append(Side(normalise_intensity(images, "quantile"), [folder.subjects[i] for i in rows]))
    train, held_out, strangers = sides
    return train, held_out, strangers


def fit(train: Side, held_out: Side, seed: int) -> MemorizationDetector:
    detector = MemorizationDetector(alpha=ALPHA, seed=seed)
    return detector.fit(train.images, train.subjects, held_out.images, held_out.subjects)


def row(detector: MemorizationDetector, scores: Scores) -> dict[str, Any]:
    """What was found, and what would have been against real images as they are."""
    plain = at_most(detector.null.p_values(scores.verified.double()), ALPHA)
    return {
        "flagged": float(scores.flagged.double().mean()),
        "plain": float(plain.double().mean()),
        "mi": float(scores.mi.median()),
        "verdict": str(scores.verdict),
        "quality": scores.flagging.null.quality,
    }


def measure(root: Path, data: Set, seed: int) -> dict[str, dict[str, Any]]:
    """All rows of one split."""
    train, held_out, strangers = divide(root, data, seed)
    searched, null = train.thin(data.slices), held_out.thin(data.slices)
    detector = fit(searched, null, seed)
    generator = torch.Generator().manual_seed(seed)
    seen = strangers.thin(data.slices)
    seen = Side(seen.images[:SAMPLES], seen.subjects[:SAMPLES])
    rows = torch.randperm(len(searched.images), generator=generator)[:COPIES]
    copies = torch.cat([searched.images[rows[::2]], PERTURBATIONS["combined"](searched.images[rows[1::2]], generator)])
    found: dict[str, dict[str, Any]] = {}
    for name, change in DEGRADED.items():
        one = row(detector, detector.score(change(seen.images, generator)))
        one["copies"] = row(detector, detector.score(change(copies, generator)))
        found[f"slices, {name}"] = one
    taught = strangers.thin(data.taught)
    own = fit(taught, held_out.thin(data.taught), seed)  # slices of the same levels
    for name, sample in trained(taught.images, seed).items():
        torch.manual_seed(seed)
        samples = sample(SAMPLES)
        one = row(detector, detector.score(samples))
        if "diffusion" in name:
            one["own"] = row(own, own.score(samples))
        found[name] = one
    return found


# Telling --------------------------------------------------------------------------------------------------------------


def main() -> None:
    root = os.environ.get("MI_CALLBACK_DATA")
    if not root:
        raise SystemExit("needed MI_CALLBACK_DATA, a folder with ixi_t1 and spider_lumbar; it is not set.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sections = []
    for title, data in SETS.items():
        measured = []
        for seed in SEEDS:
            name = f"{data.folder.split('/')[0]} {seed}"
            measured.append(kept(KEPT / f"{name}.json", timed(name, lambda s=seed, d=data: measure(Path(root), d, s))))
        sections.append(f"## {title}\n\n{tables(measured)}\n")
    versions = f"mi_callback {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    head = (
        f"# Generators that copied nobody\n\n`make bench-generators`, seeds {SEEDS[0]} to {SEEDS[-1]}, "
        f"{time.strftime('%Y-%m-%d')}, {versions}. {SAMPLES} images a row and seed, alpha = {ALPHA:g}; means over "
        "seeds, with the 95 % interval of Student's t. *As they are*: against held-out images as they are. *At their "
        "quality*: against held-out images made as sharp and noisy as the samples, which is what decides. Everything "
        "in the first table was made of people who were not trained on.\n"
    )
    write_page(HERE, "\n".join([head, *sections]))


def tables(measured: list[dict[str, Any]]) -> str:
    """Against strangers; copies of the same quality; against the generators' own training set."""
    every, copies, own = [], [], []
    for name, first in measured[0].items():
        each = [one[name] for one in measured]
        every.append([name, interval([e["plain"] for e in each]), interval([e["flagged"] for e in each]),
                      f"{mean(e['mi'] for e in each):.1f}", verdicts(each)])  # fmt: skip
        for key, rows in (("copies", copies), ("own", own)):
            if key in first:
                inner = [e[key] for e in each]
                rows.append([name, interval([e["plain"] for e in inner]), interval([e["flagged"] for e in inner]),
                             f"{mean(e['mi'] for e in inner):.1f}", verdicts(inner)])  # fmt: skip
    head = ["samples", "flagged, as they are", "flagged, at their quality", "MI median", "verdicts"]
    return "\n\n".join([
        "Against people whom no generator saw:", markdown_table(head, every),
        "Copies of training images (half of them flipped, turned, cropped and noisy), changed in the same way:",
        markdown_table(head, copies),
        "The generators against their own training set:", markdown_table(head, own),
    ])  # fmt: skip


def interval(shares: list[float]) -> str:
    if len(shares) < 2 or stdev(shares) == 0:
        return f"{mean(shares):.3f}"
    half = stats.t.ppf(0.975, len(shares) - 1) * stdev(shares) / math.sqrt(len(shares))
    return f"{mean(shares):.3f} ({max(0.0, mean(shares) - half):.3f} to {min(1.0, mean(shares) + half):.3f})"


def verdicts(each: list[dict[str, Any]]) -> str:
    names = [one["verdict"] for one in each]
    return ", ".join(f"{names.count(name)} {name}" for name in ("memorized", "inconclusive", "clean") if name in names)


if __name__ == "__main__":
    main()
