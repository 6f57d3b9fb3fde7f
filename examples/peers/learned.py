"""Small networks that are trained here, on the training slices of a split, as two papers train theirs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mi_callback.encoders.bundled import Stage
from mi_callback.encoders.pooling import generalised_mean
from mi_callback.images.perturbations import affine, blur, gaussian_noise, scale_intensity
from mi_callback.images.resizing import resize

SIDE, WIDTHS, DIMENSIONS = 48, (16, 32, 64), 64
BATCH, RATE, TEMPERATURE = 32, 3e-3, 0.1
WINDOW = 7


class Embedding(nn.Module):
    """Three stages of the bundled encoder's kind, pooled, → a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((1, *WIDTHS), WIDTHS, strict=False)
        self.stages = nn.Sequential(*(Stage(before, after) for before, after in pairs))
        self.head = nn.Linear(WIDTHS[-1], DIMENSIONS)

    def forward(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n d"]:
        small = resize(images, (SIDE, SIDE))
        return F.normalize(self.head(generalised_mean(self.stages(small).flatten(2))), dim=1)


def deep_ssim(images: Tensor, steps: int, seed: int) -> Embedding:
    """Cosines of embeddings learn to be the SSIM of the images, which are changed before they are embedded.

    After Scardace et al., "A novel metric for detecting memorization in generative models for brain MRI synthesis",
    arXiv 2509.16582, WACV 2026 (DeepSSIM): theirs is a larger network trained at length on 2195 scans.
    """
    small = resize(images, (SIDE, SIDE))
    target = all_ssim(small)

    def loss(network: Embedding, generator: torch.Generator) -> Tensor:
        rows = torch.randperm(len(small), generator=generator)[:BATCH]
        found = network(slightly(small[rows], generator))
        return F.mse_loss(found @ found.T, target[rows][:, rows])

    return _trained(Embedding(), [(loss, steps)], seed)


def two_stage(images: Tensor, people: list[str], steps: tuple[int, int], seed: int) -> Embedding:
    """First slices of one person come together, then a slice and its changed copy do, apart from all other slices.

    After Dombrowski, Nützel and Kainz, "LCMem: a universal model for robust image memorization detection", arXiv
    2512.14421: theirs compares latents of a large autoencoder, is trained on six collections, and classifies pairs.
    """
    small = resize(images, (SIDE, SIDE))
    own = {person: [i for i, p in enumerate(people) if p == person] for person in dict.fromkeys(people)}
    several = [rows for rows in own.values() if len(rows) > 1]

    def identity(network: Embedding, generator: torch.Generator) -> Tensor:
        chosen = [torch.randperm(len(rows), generator=generator)[:2].tolist() for rows in several]
        first, second = ([rows[pick[k]] for rows, pick in zip(several, chosen, strict=True)] for k in (0, 1))
        return together(network, slightly(small[first], generator), slightly(small[second], generator))

    def copies(network: Embedding, generator: torch.Generator) -> Tensor:
        rows = torch.randperm(len(small), generator=generator)[:BATCH]
        return together(network, small[rows], strongly(small[rows], generator))

    return _trained(Embedding(), [(identity, steps[0]), (copies, steps[1])], seed)


def together(network: Embedding, first: Tensor, second: Tensor) -> Tensor:
    """InfoNCE: each image belongs to its partner."""
    one, other = network(torch.cat([first, second])).chunk(2)
    return F.cross_entropy(one @ other.T / TEMPERATURE, torch.arange(len(first)))


def slightly(images: Tensor, generator: torch.Generator) -> Tensor:
    """Changes that keep the structure: turned, moved, darkened by a little."""
    angle, dx, dy, gain = (between(images, low, high, generator) for low, high in SLIGHT)
    return scale_intensity(affine(images, rotation=angle, shift_x=dx, shift_y=dy), gain)


def strongly(images: Tensor, generator: torch.Generator) -> Tensor:
    """Copies as they leak: flipped, turned, magnified, noisy, smooth."""
    for axis in (-1, -2):
        coin = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(coin.view(-1, 1, 1, 1), images.flip(axis), images)
    angle, scale, gain, sigma = (between(images, low, high, generator) for low, high in STRONG)
    return gaussian_noise(blur(scale_intensity(affine(images, angle, scale, scale), gain), sigma), 0.02, generator)


SLIGHT = ((-5.0, 5.0), (-0.05, 0.05), (-0.05, 0.05), (0.9, 1.1))
STRONG = ((-15.0, 15.0), (0.95, 1.25), (0.8, 1.2), (0.0, 1.0))


def between(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(len(images), generator=generator)


def all_ssim(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n n"]:
    """SSIM of all pairs of images in [0, 1], windows of 7 × 7 pixels that all weigh the same.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 2004.
    """
    mean = F.avg_pool2d(images, WINDOW, 1)
    variance = F.avg_pool2d(images**2, WINDOW, 1) - mean**2
    rows = []
    for image, mu, var in zip(images, mean, variance, strict=True):
        both = F.avg_pool2d(images * image, WINDOW, 1) - mean * mu
        light = (2 * mean * mu + 1e-4) / (mean**2 + mu**2 + 1e-4)
        rows.append((light * (2 * both + 9e-4) / (variance + var + 9e-4)).mean(dim=(1, 2, 3)))
    return torch.stack(rows)


Loss = Callable[[Embedding, torch.Generator], Tensor]


def _trained(network: Embedding, stages: list[tuple[Loss, int]], seed: int) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    for loss, steps in stages:
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(network, generator).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)
