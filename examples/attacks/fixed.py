"""What somebody who knows nothing of the detector may do to a copy so that it is not found.

Each takes copies `(n, 1, h, w)` in [0, 1] and returns the same.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.perturbations import affine, crop, elastic, gaussian_noise, grid, stripes

Attack = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Of copies and as many images of strangers, which some mixtures need."""


def shuffled(images: Tensor, tiles: int, generator: torch.Generator) -> Tensor:
    """Tiles of each image in another order."""
    height, width = images.shape[-2:]
    cut = images[..., : height // tiles * tiles, : width // tiles * tiles]
    parts = F.unfold(cut, (height // tiles, width // tiles), stride=(height // tiles, width // tiles))
    mixed = torch.stack([part[:, torch.randperm(tiles**2, generator=generator)] for part in parts])
    return F.fold(mixed, cut.shape[-2:], (height // tiles, width // tiles), stride=(height // tiles, width // tiles))


def edges(images: Tensor) -> Tensor:
    """Sobel magnitude."""
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])[None, None]
    across, down = (F.conv2d(F.pad(images, (1,) * 4, mode="replicate"), k) for k in (kernel, kernel.mT))
    size = (across.square() + down.square()).sqrt()
    return size / size.amax(dim=(1, 2, 3), keepdim=True)


def ninth(images: Tensor, others: Tensor) -> Tensor:
    """A third of each side, the middle one, in the image of a stranger."""
    third = images.shape[-1] // 3
    pasted = others.clone()
    pasted[..., third : 2 * third, third : 2 * third] = images[..., third : 2 * third, third : 2 * third]
    return pasted


def hidden(images: Tensor) -> Tensor:
    """A black square of half the side over the middle."""
    quarter = images.shape[-1] // 4
    covered = images.clone()
    covered[..., quarter : 3 * quarter, quarter : 3 * quarter] = 0
    return covered


FIXED: dict[str, Attack] = {
    "stripes, upright, period 6, amplitude .2": lambda x, o, g: stripes(x, 0.2, 6.0),
    "stripes, oblique, period 7.3, amplitude .2": lambda x, o, g: stripes(x, 0.2, 7.3, 37.0),
    "stripes, level, period 12, amplitude .2": lambda x, o, g: stripes(x, 0.2, 12.0, 90.0),
    "stripes, faint (.08), period 5": lambda x, o, g: stripes(x, 0.08, 5.0),
    "turned by 20 degrees, then striped": lambda x, o, g: stripes(affine(x, rotation=20.0), 0.2, 6.0),
    "two stripes, crossed": lambda x, o, g: stripes(stripes(x, 0.15, 5.0, 20.0), 0.15, 8.0, 110.0),
    "grid of white lines, period 8": lambda x, o, g: grid(x, 8),
    "grid of white lines, period 6": lambda x, o, g: grid(x, 6),
    "noise, sigma .15": lambda x, o, g: gaussian_noise(x, 0.15, g),
    "mean of the copy and a stranger": lambda x, o, g: (x + o) / 2,
    "mean of two copies": lambda x, o, g: (x + x.roll(1, dims=0)) / 2,
    "mean of four copies": lambda x, o, g: torch.stack([x.roll(k, dims=0) for k in range(4)]).mean(dim=0),
    "crop to half of each side": lambda x, o, g: crop(x, 0.5),
    "turn of 60 degrees": lambda x, o, g: affine(x, rotation=60.0),
    "turn of 135 degrees": lambda x, o, g: affine(x, rotation=135.0),
    "a ninth, pasted into a stranger": lambda x, o, g: ninth(x, o),
    "middle quarter hidden": lambda x, o, g: hidden(x),
    "warp of 4 px": lambda x, o, g: elastic(x, 4.0, g),
    "warp of 6 px": lambda x, o, g: elastic(x, 6.0, g),
    "stretched by 1.5": lambda x, o, g: affine(x, scale_x=1.5),
    "sheared by .3": lambda x, o, g: affine(x, shear=0.3),
    "3 x 3 tiles, shuffled": lambda x, o, g: shuffled(x, 3, g),
    "edges alone": lambda x, o, g: edges(x),
    "three grey levels": lambda x, o, g: (x * 2.999).floor() / 2,
}
