"""The training of the copy descriptor: images are found again after whatever a copy may have gone through.

One version of each image is as it is, as training images are when the detector looks; the other is changed, as copies
are. Parts of images and made-up anatomies stand among them, so that it is not heads alone that are told apart.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from encoder_training.learning import TEMPERATURE, Training, koleo
from encoder_training.slices import PAIRS, Slices, keep, short_name
from torch import Tensor, nn

from mi_callback.encoders.descriptor import LOOKS, SIDE, DescriptorNet, copy_descriptor, describe, recolour
from mi_callback.images import perturbations as change
from mi_callback.images.files import split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.poses import orbit
from mi_callback.images.resizing import resize
from mi_callback.images.thumbnails import make_thumbnails

RUN = 2
"""Neighbouring slices of one subject that enter a batch together."""

MADE_UP, PARTS, STRETCHED, TURNED = 0.35, 0.6, 0.3, 0.5
"""Share of batches of made-up anatomies, and of those of slices that are magnified parts, stretched, and turned."""


class DescriptorTraining(Training):
    """The training of the copy descriptor, from thumbnails."""

    def build(self) -> DescriptorNet:
        return DescriptorNet(tuple(self.options.widths))

    def losses(self, folders: list[Slices]) -> tuple[Tensor, Tensor]:
        both = versions(folders, self.generator)
        with torch.autocast("cpu", torch.bfloat16):
            pooled = self.model.pooled(both)
        described = F.normalize(self.model.head(self.model.norm(pooled)), dim=1)
        copies, originals = described.chunk(2)
        return info_nce(copies, originals), koleo(originals)


def versions(folders: list[Slices], generator: torch.Generator) -> Tensor:
    """Copies of a batch of images, and behind them the images, some of them recoloured."""
    images = draw(folders, generator)
    seen = torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.25, recolour(images), images)
    return torch.cat([changed(images, generator), seen])


def info_nce(copies: Tensor, originals: Tensor) -> Tensor:
    """Cross-entropy of finding the original among all others and all other copies, and the copy among all copies."""
    logits, among = copies @ originals.T / TEMPERATURE, copies @ copies.T / TEMPERATURE
    among.fill_diagonal_(-torch.inf)
    own = torch.arange(len(copies))
    return (F.cross_entropy(torch.cat([logits, among], dim=1), own) + F.cross_entropy(logits.T, own)) / 2


def draw(folders: list[Slices], generator: torch.Generator) -> Tensor:
    """A batch `(PAIRS, 1, SIDE, SIDE)`: of two folders, or of made-up anatomies."""

    def sometimes(share: float) -> bool:
        return float(torch.rand((), generator=generator)) < share

    if sometimes(MADE_UP):
        return made_up(PAIRS, generator)
    sizes = torch.tensor([len(folder.images) for folder in folders], dtype=torch.float)
    chosen = torch.multinomial(sizes.sqrt(), min(2, len(folders)), generator=generator).tolist()
    picked = []
    for k in chosen:
        starts = torch.randperm(len(folders[k].images) // RUN, generator=generator)[: PAIRS // RUN // len(chosen)] * RUN
        picked.append(folders[k].images[(starts[:, None] + torch.arange(RUN)).flatten()])
    images = torch.cat(picked)[:, None].float() / 255
    n = len(images)
    if sometimes(PARTS):
        zoom = 1 + torch.rand(n, generator=generator)
        across, down = ((2 * torch.rand(n, generator=generator) - 1) * (zoom - 1) / 2 for _ in range(2))
        images = change.affine(images, scale_x=zoom, scale_y=zoom, shift_x=across, shift_y=down)
    if sometimes(STRETCHED):
        stretch = torch.exp(0.2 * (2 * torch.rand(n, generator=generator) - 1))
        images = change.affine(images, scale_x=stretch, scale_y=1 / stretch)
    if sometimes(TURNED):
        images = torch.rot90(images, int(torch.randint(4, (), generator=generator)), (-2, -1))
    return normalise_intensity(resize(images, (SIDE, SIDE)), "quantile")


def made_up(n: int, generator: torch.Generator, tissues: int = 8) -> Tensor:
    """Anatomies of nobody: smooth tissues of random grey values with some texture, most of them in an uneven ellipse.

    References:
        Hoffmann et al., "SynthMorph: learning contrast-invariant registration without acquired images", IEEE TMI 2022
        (images made from random label maps).
    """

    def smooth(channels: int, points: int) -> Tensor:
        coarse = torch.randn(n, channels, points, points, generator=generator)
        return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)

    def each() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator)

    labels = (smooth(tissues, 5) + 0.6 * smooth(tissues, 10)).argmax(dim=1)
    grey = torch.rand(n, tissues, generator=generator).gather(1, labels.flatten(1)).view(n, 1, SIDE, SIDE)
    images = grey + 0.1 * smooth(1, 24) * each()
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    radius = (x / (0.55 + 0.5 * each())) ** 2 + (y / (0.55 + 0.5 * each())) ** 2 + 0.3 * smooth(1, 5)
    images = torch.where((radius < 1) | (each() < 0.5), images, 0.0)
    images = change.blur(images, 0.3 + 0.7 * torch.rand(n, generator=generator))
    return normalise_intensity(images, "quantile")


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """What copies may have gone through; each change hits a random part of the batch. Poses are left to the search."""
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    def each() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator)

    def sometimes(new: Tensor, old: Tensor, share: float) -> Tensor:
        return torch.where(each() < share, new, old)

    others, which = images.roll(PAIRS // 2 + RUN, 0), each()
    other_contrast = torch.where(which < 0.9, change.t2_like(images), change.invert(images))
    other_contrast = torch.where(which < 0.55, change.remap(images, generator), other_contrast)
    mixed = sometimes(change.blend(images, others, uniform(0, 0.45)), images, 0.15)
    mixed = sometimes(change.paste(images, others, uniform(0, 0.5), generator), mixed, 0.15)
    x = sometimes(other_contrast, mixed, 0.6)
    zoom, stretch = torch.exp(uniform(-0.3, 0.6)), torch.exp(uniform(-0.1, 0.1))
    moved = change.affine(
        x,
        rotation=uniform(-48, 48),
        scale_x=zoom * stretch,
        scale_y=zoom / stretch,
        shift_x=uniform(-0.15, 0.15),
        shift_y=uniform(-0.15, 0.15),
        shear=uniform(-0.1, 0.1),
    )
    x = sometimes(moved, x, 0.85)
    x = sometimes(change.elastic(x, uniform(0, 3), generator), x, 0.25)
    x = sometimes(change.gamma(x, torch.exp(uniform(-0.5, 0.5))), x, 0.4)
    x = sometimes(change.bias_field(x, uniform(0, 0.4), generator), x, 0.25)
    x = sometimes(change.blur(x, uniform(0.1, 1.2)), x, 0.3)
    loud = (torch.rand(n, generator=generator) < 0.3) * uniform(0, 0.12)
    x = sometimes(change.rician_noise(x, uniform(0, 0.05) + loud, generator), x, 0.35)
    x = sometimes(patterned(x, generator), x, 0.08)
    return normalise_intensity(x, "quantile")


def patterned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Stripes of any direction and period, or a grid, added to images: what an attacker may print over a copy."""

    def each(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)

    period, angle, phase = each(3, 9), each(0, math.pi), each(0, 2 * math.pi)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    wave = torch.sin(2 * math.pi * (x * torch.cos(angle) + y * torch.sin(angle)) / period + phase)
    grid = ((x % 6 == 0) | (y % 6 == 0)).float()
    pattern = torch.where(each(0, 1) < 0.5, each(0, 0.25) * wave, each(0, 0.5) * grid)
    return (images + pattern).clamp(0, 1)


def recall(weights: Path, folder: Slices, copies: int = 100) -> list[list[str]]:
    """Of changed copies of half of the subjects: how many find their own slice, and their person, among that half."""
    known = keep(folder, split_by_subject(folder.subjects, 0.5, seed=1))
    network, poses = copy_descriptor(weights), list(orbit("dihedral"))
    looks = [describe(network, known.images, ["identity"], look)[0] for look in LOOKS]
    generator = torch.Generator().manual_seed(0)
    queries = torch.randperm(len(known.images), generator=generator)[:copies]
    images = known.images[queries][:, None].float() / 255
    others = images.roll(len(images) // 2, 0)
    named = {name: one(images, generator) for name, one in change.PERTURBATIONS.items()}
    named |= {name: one(images, others, generator) for name, one in change.PASTES.items()}
    rows = []
    for name, changed_images in named.items():
        described = describe(network, make_thumbnails(changed_images, known.images.shape[-1]), poses)
        alike = [_cosines(described, look) for look in looks]
        order = torch.stack(alike).amax(dim=(0, 1)).argsort(dim=1, descending=True)[:, :16]
        own = order == queries[:, None]
        people = [known.subjects[i] for i in queries.tolist()]
        person = [[known.subjects[j] == who for j in found] for found, who in zip(order.tolist(), people, strict=True)]
        shares = [own[:, :k].any(dim=1).double().mean() for k in (1, 8, 16)]
        shares.append(torch.tensor(person)[:, :8].any(dim=1).double().mean())
        rows.append([short_name(folder.name), name, str(len(queries)), *(f"{float(share):.2f}" for share in shares)])
    return rows


def _cosines(queries: Tensor, known: Tensor) -> Tensor:
    """Of queries in every pose with training images in one look, about the mean of these: `(poses, n, m)`."""
    mean = known.mean(dim=0)
    ours, theirs = (F.normalize(vectors - mean, dim=-1) for vectors in (queries, known))
    return ours @ theirs.T


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What `copy_descriptor` reads."""
    return {key: value.contiguous() for key, value in model.state_dict().items()}
