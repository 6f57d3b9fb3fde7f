"""Whole volumes: the same diffusion model in three dimensions. Volumes get an encoder of volumes by themselves."""

from ddpm_monai import DDPM
from lightning import Trainer
from people import People

from mi_callback import MemorizationCallback
from mi_callback.lightning.samplers import DiffusionSampler


def main(watch=None, **options):
    watch = watch or MemorizationCallback(n_samples=16, sampler=DiffusionSampler(steps=20), every_n_validations=10)
    Trainer(callbacks=[watch], **options).fit(DDPM(dims=3), People(side=16, dims=3))


if __name__ == "__main__":
    main(max_epochs=50)
