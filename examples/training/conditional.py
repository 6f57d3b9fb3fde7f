"""A conditional generator: labels are drawn from validation batches, and flags are grouped by them."""

import torch
from lightning import LightningModule, Trainer
from people import People
from torch import nn

from mi_callback import MemorizationCallback


class Conditional(LightningModule):
    def __init__(self):
        super().__init__()
        self.labels = nn.Embedding(2, 8)
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 256), nn.Unflatten(1, (1, 16, 16)))
        self.codes = nn.Embedding(24, 8)

    def sample(self, n, labels):
        return self.decoder(torch.cat([torch.randn(n, 8, device=self.device), self.labels(labels)], dim=1))

    def training_step(self, batch, _):
        codes = self.codes.weight[torch.randint(24, (len(batch["image"]),))]
        return (self.decoder(torch.cat([codes, self.labels(batch["label"])], 1)) - batch["image"]).square().mean()

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(watch=None, **options):
    watch = watch or MemorizationCallback(n_samples=32, every_n_validations=10, condition_key="label")
    Trainer(callbacks=[watch], **options).fit(Conditional(), People())


if __name__ == "__main__":
    main(max_epochs=50)
