"""LightningCLI: `python cli.py fit --trainer.callbacks+=mi_callback.MemorizationCallback --trainer.max_epochs=50`."""

from lightning.pytorch.cli import LightningCLI
from people import People
from vae import VAE


def main(args=None, **options):
    return LightningCLI(VAE, People, args=args, save_config_callback=None, **options)


if __name__ == "__main__":
    main()
