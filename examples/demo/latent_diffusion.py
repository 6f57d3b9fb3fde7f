"""A small latent diffusion model that memorizes within a minute on two cores.

Latents are whitened principal component scores of the training slices (a linear autoencoder); the denoiser is a
residual MLP that predicts the velocity (Salimans and Ho 2022); samples come from 50 deterministic DDIM steps (Song et
al. 2021) under a cosine schedule.
"""

import itertools
import math

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LatentDiffusion(lightning.LightningModule):
    """Diffusion in the principal components of `images`, `(n, 1, h, w)` in [0, 1]."""

    def __init__(
        self,
        images: Tensor,
        components: int = 64,
        width: int = 512,
        blocks: int = 3,
        learning_rate: float = 1e-3,
        ddim_steps: int = 50,
    ) -> None:
        super().__init__()
        self.shape, self.learning_rate, self.ddim_steps = images.shape[1:], learning_rate, ddim_steps
        flat = images.flatten(1)
        components = min(components, len(images) - 1)
        _, spread, basis = torch.pca_lowrank(flat, q=components, niter=4)
        self.register_buffer("mean", flat.mean(dim=0))
        self.register_buffer("basis", basis)
        self.register_buffer("spread", spread / math.sqrt(len(images)))
        self.denoiser = Denoiser(components, width, blocks)

    def encode(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - self.mean) @ self.basis / self.spread

    def decode(self, latents: Tensor) -> Tensor:
        return ((latents * self.spread) @ self.basis.T + self.mean).clamp(0, 1).view(-1, *self.shape)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.loss(self.encode(batch["image"]))
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self.log("val/loss", self.loss(self.encode(batch["image"])), batch_size=len(batch["image"]))

    def loss(self, latents: Tensor) -> Tensor:
        time = torch.rand(len(latents), 1, device=latents.device)
        signal, noise_level = schedule(time)
        noise = torch.randn_like(latents)
        velocity = signal * noise - noise_level * latents
        return F.mse_loss(self.denoiser(signal * latents + noise_level * noise, time), velocity)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.0)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images `(n, 1, h, w)`: the method that MemorizationCallback finds."""
        x = torch.randn(n, self.basis.shape[1], device=self.device)
        times = torch.linspace(1, 0, self.ddim_steps + 1, device=self.device)
        for now, following in itertools.pairwise(times):
            signal, noise_level = schedule(now)
            velocity = self.denoiser(x, now.expand(n, 1))
            clean, noise = signal * x - noise_level * velocity, noise_level * x + signal * velocity
            signal, noise_level = schedule(following)
            x = signal * clean + noise_level * noise
        return self.decode(x)


class Denoiser(nn.Module):
    """Residual MLP on latents `(n, d)` and time `(n, 1)` in [0, 1] → velocity `(n, d)`."""

    def __init__(self, dimension: int, width: int, blocks: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 ** torch.arange(8).float() * math.pi)
        self.embed = nn.Linear(dimension + 16, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.out = nn.Linear(width, dimension)

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        angles = time * self.frequencies
        x = self.embed(torch.cat([latents, angles.sin(), angles.cos()], dim=1))
        for block in self.blocks:
            x = x + block(x)
        return self.out(F.silu(x))


def schedule(time: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise level at `time` in [0, 1]; their squares sum to one."""
    angle = time * math.pi / 2
    return angle.cos(), angle.sin()
