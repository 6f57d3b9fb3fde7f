"""A VAE: the sampler is found, `decode(z)` of the module, by its `latent_dim`. Averaged weights are sampled."""

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from people import People
from torch import nn

from mi_callback import MemorizationCallback


class VAE(LightningModule):
    latent_dim = 8

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 256), nn.Unflatten(1, (1, 16, 16)))

    def decode(self, z):
        return self.decoder(z)

    def training_step(self, batch, _):
        mean, log_var = self.encoder(batch["image"]).chunk(2, dim=1)
        decoded = self.decode(mean + torch.randn_like(mean) * (log_var / 2).exp())
        divergence = (mean.square() + log_var.exp() - 1 - log_var).mean()
        return (decoded - batch["image"]).square().mean() + 1e-3 * divergence

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(watch=None, **options):
    callbacks = [
        EMAWeightAveraging(decay=0.9),
        watch or MemorizationCallback(n_samples=32, every_n_validations=10),
    ]  # in any order
    Trainer(callbacks=callbacks, **options).fit(VAE(), People())


if __name__ == "__main__":
    main(max_epochs=50)
