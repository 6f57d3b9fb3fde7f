"""A network and a scheduler of diffusers, and its averaged weights, which are the ones that are sampled."""

import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from lightning import LightningModule, Trainer
from people import People

from mi_callback import MemorizationCallback
from mi_callback.lightning.samplers import DiffusersSampler


class Diffusion(LightningModule):
    def __init__(self):
        super().__init__()
        self.unet = UNet2DModel(
            16, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, add_attention=False,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip
        self.scheduler = DDIMScheduler()
        self.ema = EMAModel(self.unet.parameters())

    def training_step(self, batch, _):
        images, n = batch["image"], len(batch["image"])
        noise, t = torch.randn_like(images), torch.randint(1000, (n,), device=self.device)
        return (self.unet(self.scheduler.add_noise(images, noise, t), t).sample - noise).square().mean()

    def on_train_batch_end(self, *_):
        self.ema.step(self.unet.parameters())

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return torch.optim.Adam(self.unet.parameters(), 1e-3)


def main(watch=None, **options):
    watch = watch or MemorizationCallback(n_samples=32, every_n_validations=10, sampler=DiffusersSampler(steps=25))
    Trainer(callbacks=[watch], **options).fit(Diffusion(), People())


if __name__ == "__main__":
    main(max_epochs=50)
