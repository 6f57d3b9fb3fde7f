"""Generators that train within a minute on one core: a variational autoencoder and a GAN, of slices of 96 pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, NARROWEST = 96, 6
CHANNELS = (16, 32, 64, 64)


class VariationalAutoencoder(nn.Module):
    """Convolutional; its samples are smooth (Kingma and Welling 2014). `noise` is the standard deviation of a pixel."""

    def __init__(self, latent: int = 64, noise: float = 0.1) -> None:
        super().__init__()
        self.latent, self.noise = latent, noise
        self.encoder = nn.Sequential(*_narrowing(), nn.Flatten(), nn.Linear(CHANNELS[-1] * NARROWEST**2, 2 * latent))
        self.decoder = _widening(latent)

    def loss(self, images: Tensor) -> Tensor:
        """The negative evidence bound, up to a constant."""
        return self.losses(images)[0]

    def losses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The negative evidence bound, up to a constant, and the images again, `(n, 1, 96, 96)`."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        made = self.decoder(latents)
        reconstruction = (made - images).square().flatten(1).sum(dim=1) / (2 * self.noise**2)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return (reconstruction + divergence).mean(), made

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.decoder(torch.randn(n, self.latent))


class Adversarial(nn.Module):
    """A generator and a discriminator with the non-saturating loss (Goodfellow et al. 2014)."""

    def __init__(self, latent: int = 64) -> None:
        super().__init__()
        self.latent = latent
        self.generator, self.discriminator = _widening(latent), discriminator()

    def losses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of the discriminator, and of the generator."""
        made = self.generator(torch.randn(len(images), self.latent))
        judged = F.softplus(-self.discriminator(images)).mean() + F.softplus(self.discriminator(made.detach())).mean()
        return judged, F.softplus(-self.discriminator(made)).mean()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.generator(torch.randn(n, self.latent))


def discriminator() -> nn.Sequential:
    """Images `(n, 1, 96, 96)` → `(n, 1)`, larger is more real; layers of spectral norm one (Miyato et al. 2018)."""
    spectral = nn.utils.parametrizations.spectral_norm
    layers = [spectral(layer) if isinstance(layer, nn.Conv2d) else layer for layer in _narrowing(norm=False)]
    return nn.Sequential(*layers, nn.Flatten(), spectral(nn.Linear(CHANNELS[-1] * NARROWEST**2, 1)))


def train_autoencoder(images: Tensor, steps: int, seed: int) -> VariationalAutoencoder:
    torch.manual_seed(seed)
    model = VariationalAutoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = model.loss(_batch(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def train_adversarial(images: Tensor, steps: int, seed: int) -> Adversarial:
    torch.manual_seed(seed)
    model = Adversarial()
    judge = torch.optim.Adam(model.discriminator.parameters(), lr=4e-4, betas=(0.5, 0.99))
    maker = torch.optim.Adam(model.generator.parameters(), lr=2e-4, betas=(0.5, 0.99))
    for _ in range(steps):
        judged, _ = model.losses(batch := _batch(images))
        judge.zero_grad()
        judged.backward()
        judge.step()
        _, made = model.losses(batch)
        maker.zero_grad()
        made.backward()
        maker.step()
    return model.eval()


def _batch(images: Tensor, size: int = 24) -> Tensor:
    return images[torch.randint(len(images), (size,))]


def _narrowing(norm: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers += [nn.LeakyReLU(0.2)]
    return layers


def _widening(latent: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(latent, CHANNELS[-1] * NARROWEST**2)]
    layers += [nn.Unflatten(1, (CHANNELS[-1], NARROWEST, NARROWEST))]
    for before, after in zip(CHANNELS[:0:-1], CHANNELS[-2::-1], strict=True):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Upsample(scale_factor=2), nn.Conv2d(CHANNELS[0], 1, 3, padding=1), nn.Sigmoid())
