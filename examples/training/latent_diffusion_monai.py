"""Latent diffusion of MONAI: latents have the shape of those of a real image, and the autoencoder decodes them."""

import torch
from lightning import LightningModule, Trainer
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from people import People

from mi_callback import MemorizationCallback
from mi_callback.lightning.samplers import DiffusionSampler

PLAIN = {"channels": (8, 8), "attention_levels": (False, False), "norm_num_groups": 4, "num_res_blocks": 1}


class LatentDiffusion(LightningModule):
    def __init__(self):
        super().__init__()
        self.unet = DiffusionModelUNet(2, 2, 2, **PLAIN)
        without = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
        self.autoencoder = AutoencoderKL(2, latent_channels=2, **PLAIN, **without).requires_grad_(False)  # load yours
        self.inferer = LatentDiffusionInferer(DDIMScheduler(num_train_timesteps=1000), scale_factor=1.0)

    def training_step(self, batch, _):
        images = batch["image"]
        noise = torch.randn(len(images), 2, 8, 8, device=self.device)
        t = torch.randint(1000, (len(images),), device=self.device)
        return (self.inferer(images, self.autoencoder, self.unet, noise, t) - noise).square().mean()

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return torch.optim.Adam(self.unet.parameters(), 1e-3)


def main(watch=None, **options):
    watch = watch or MemorizationCallback(n_samples=32, every_n_validations=10, sampler=DiffusionSampler(steps=50))
    Trainer(callbacks=[watch], **options).fit(LatentDiffusion(), People())


if __name__ == "__main__":
    main(max_epochs=50)
