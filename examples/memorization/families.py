"""Three families of generators that Lightning trains on two cores: diffusion, a transformer of tokens, a VAE-GAN."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from demo.latent_diffusion import LatentDiffusion
from generators.models import VariationalAutoencoder, discriminator
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


class VAEGAN(lightning.LightningModule):
    """A variational autoencoder whose images, made again or drawn, must also look real to a discriminator (Larsen et
    al. 2016; here the reconstruction is compared by pixels). Few latents: what is drawn lies where it was trained.
    """

    automatic_optimization = False

    def __init__(self, latent: int = 3, noise: float = 0.7, realism: float = 2.0) -> None:
        super().__init__()
        self.autoencoder, self.discriminator = VariationalAutoencoder(latent, noise), discriminator()
        self.realism = realism

    def losses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of the autoencoder, and of the discriminator."""
        bound, again = self.autoencoder.losses(images)
        drawn = self.autoencoder.decoder(torch.randn(len(images), self.autoencoder.latent, device=self.device))
        fooled = sum(F.softplus(-self.discriminator(made)).mean() for made in (again, drawn))
        caught = sum(F.softplus(self.discriminator(made.detach())).mean() for made in (again, drawn))
        return bound + self.realism * fooled, F.softplus(-self.discriminator(images)).mean() + caught / 2

    def training_step(self, batch: dict[str, Any], _: int) -> None:
        losses = self.losses(batch["image"])
        for optimizer, loss, part in zip(self.optimizers(), losses, self.children(), strict=True):
            part.zero_grad()
            self.manual_backward(loss, inputs=list(part.parameters()))
            optimizer.step()
        self.log("train/loss", losses[0], on_step=False, on_epoch=True, batch_size=len(batch["image"]))

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.log("val/loss", self.losses(batch["image"])[0], batch_size=len(batch["image"]))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        rates = ((self.autoencoder, 1.5e-3), (self.discriminator, 4e-4))
        return [torch.optim.Adam(part.parameters(), lr=rate, betas=(0.5, 0.99)) for part, rate in rates]

    def sample(self, n: int) -> Tensor:
        return self.autoencoder.sample(n)


FAMILIES: dict[str, Callable[[Tensor], lightning.LightningModule]] = {
    "latent diffusion": LatentDiffusion,
    "token transformer": lambda images: TokenTransformer(images, steps=1500),
    "VAE-GAN": lambda _: VAEGAN(),
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
