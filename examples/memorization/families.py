"""Three families of generators that Lightning trains on two cores: diffusion, a transformer of tokens, a GAN."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from demo.latent_diffusion import LatentDiffusion
from generators.models import Adversarial
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import VQVAE, DecoderOnlyTransformer
from monai.utils.ordering import Ordering
from scipy.cluster.vq import kmeans2
from torch import Tensor

GRID, CODES = 12, 2048
"""Tokens along a side of an image of 96 pixels, and different ones."""


class TokenTransformer(lightning.LightningModule):
    """A vector-quantised autoencoder (van den Oord et al. 2017), trained first, and a transformer of its tokens."""

    def __init__(self, images: Tensor, steps: int) -> None:
        super().__init__()
        self.autoencoder = trained_autoencoder(images, steps).requires_grad_(False)
        self.transformer = DecoderOnlyTransformer(
            num_tokens=CODES + 1, max_seq_len=GRID**2, attn_layers_dim=128, attn_layers_depth=4, attn_layers_heads=4
        )
        self.order = Ordering("raster_scan", 2, (1, GRID, GRID))

    def loss(self, images: Tensor) -> Tensor:
        self.autoencoder.eval()
        models = (self.autoencoder, self.transformer, self.order)
        logits, tokens, _ = VQVAETransformerInferer()(images, *models, return_latent=True)
        return F.cross_entropy(logits.transpose(1, 2), tokens)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        loss = self.loss(batch["image"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.log("val/loss", self.loss(batch["image"]), batch_size=len(batch["image"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.transformer.parameters(), lr=1e-3, weight_decay=0.01)

    def sample(self, n: int) -> Tensor:
        first = torch.full((n, 1), CODES, device=self.device)
        models = (self.autoencoder, self.transformer, self.order)
        return VQVAETransformerInferer().sample((GRID, GRID), first, *models, verbose=False).clamp(0, 1)


class GAN(lightning.LightningModule):
    """The GAN of `examples/generators`, as Lightning trains it."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.networks = Adversarial()

    def training_step(self, batch: dict[str, Any], _: int) -> None:
        judge, maker = self.optimizers()
        for optimizer, which in ((judge, 0), (maker, 1)):
            loss = self.networks.losses(batch["image"])[which]
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            name = ("discriminator", "generator")[which]
            self.log(f"train/{name}_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        judged, _ = self.networks.losses(batch["image"])
        self.log("val/loss", judged, batch_size=len(batch["image"]))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = ((self.networks.discriminator, 4e-4), (self.networks.generator, 2e-4))
        return [torch.optim.Adam(part.parameters(), lr=rate, betas=(0.5, 0.99)) for part, rate in parts]

    def sample(self, n: int) -> Tensor:
        return self.networks.sample(n)


FAMILIES: dict[str, Callable[[Tensor], lightning.LightningModule]] = {
    "latent diffusion": LatentDiffusion,
    "token transformer": lambda images: TokenTransformer(images, steps=1500),
    "GAN": lambda _: GAN(),
}
"""How each is made for the images that it will be trained on."""


def trained_autoencoder(images: Tensor, steps: int) -> VQVAE:
    """Of images `(n, 1, 96, 96)` in [0, 1] to 12 × 12 tokens."""
    model = VQVAE(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(64,), num_res_channels=(64,), num_res_layers=1,
        downsample_parameters=((8, 8, 1, 0),), upsample_parameters=((8, 8, 1, 0, 0),), num_embeddings=CODES,
        embedding_dim=16, decay=0.98, ddp_sync=False,
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        batch = images[torch.randint(len(images), (8,))]
        if step == steps // 2:
            spread_codes(model, images)
        decoded, quantisation = (model.decode(model.encode(batch)), 0) if step < steps // 2 else model(batch)
        loss = F.mse_loss(decoded, batch) + quantisation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def spread_codes(model: VQVAE, images: Tensor) -> None:
    """Let codes begin where the encoder's values lie: those that begin elsewhere are never used."""
    seen = torch.cat([model.encode(some) for some in images.split(16)]).movedim(1, -1).flatten(0, -2)
    some = seen[torch.randperm(len(seen))[:10_000]]
    centres, _ = kmeans2(some.numpy(), min(CODES, len(some)), iter=5, minit="points", seed=0)
    codes = torch.from_numpy(centres)[torch.arange(CODES) % len(centres)]  # of few images there are fewer places
    quantiser = model.quantizer.quantizer
    quantiser.embedding.weight.copy_(codes)
    quantiser.ema_w.copy_(quantiser.embedding.weight)
    quantiser.ema_cluster_size.fill_(1.0)
