"""A GAN: the sampler is found, `forward(z)` of the part named `generator`, by its `latent_dim`."""

import torch
from lightning import LightningModule, Trainer
from people import People
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from mi_callback import MemorizationCallback


class Generator(nn.Sequential):
    latent_dim = 8

    def __init__(self):
        super().__init__(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 256), nn.Unflatten(1, (1, 16, 16)))


class GAN(LightningModule):
    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator = Generator()
        self.judge = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.LeakyReLU(), nn.Linear(64, 1))

    def training_step(self, batch, _):
        real, (improve, catch) = batch["image"], self.optimizers()
        fake, one = self.generator(torch.randn(len(real), 8, device=self.device)), torch.ones(len(real), 1).to(real)
        for optimizer, loss in (
            (catch, lambda: bce(self.judge(real), one) + bce(self.judge(fake.detach()), 0 * one)),
            (improve, lambda: bce(self.judge(fake), one)),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 1e-3) for part in (self.generator, self.judge)]


def main(watch=None, **options):
    Trainer(callbacks=[watch or MemorizationCallback(n_samples=32, every_n_validations=10)], **options).fit(
        GAN(), People()
    )


if __name__ == "__main__":
    main(max_epochs=50)
