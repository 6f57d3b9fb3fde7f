"""A diffusion model of MONAI: inferer, network and scheduler are found, and sampled in as many steps as you say."""

import torch
from lightning import LightningModule, Trainer
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from people import People

from mi_callback import MemorizationCallback
from mi_callback.lightning.samplers import DiffusionSampler


class DDPM(LightningModule):
    def __init__(self, dims=2):
        super().__init__()
        self.unet = DiffusionModelUNet(
            dims, 1, 1, channels=(8, 8), attention_levels=(False, False), norm_num_groups=4, num_res_blocks=1
        )
        self.inferer = DiffusionInferer(DDIMScheduler(num_train_timesteps=1000))

    def training_step(self, batch, _):
        images = batch["image"]
        noise, t = torch.randn_like(images), torch.randint(1000, (len(images),), device=self.device)
        return (self.inferer(images, self.unet, noise, t) - noise).square().mean()

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(watch=None, **options):
    # At most a minute at each validation: with less time, fewer samples are scored.
    sampler = DiffusionSampler(steps=50)
    watch = watch or MemorizationCallback(n_samples=32, every_n_validations=10, sampler=sampler, time_limit=60)
    Trainer(callbacks=[watch], **options).fit(DDPM(), People())


if __name__ == "__main__":
    main(max_epochs=50)
