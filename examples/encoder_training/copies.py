"""What a copy may have gone through: random changes of a batch."""

import torch
from encoder_training.slices import RUN
from torch import Tensor

from mi_callback.images import perturbations as change
from mi_callback.images.intensity import normalise_intensity


def augment(x: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """What a copy may have gone through, and what scanners do; each change hits a random part of the batch."""
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    def around(spread: float) -> Tensor:
        return uniform(-spread * strength, spread * strength)

    def sometimes(changed: Tensor, original: Tensor, probability: float) -> Tensor:
        hit = torch.rand(n, 1, 1, 1, generator=generator) < probability
        return torch.where(hit, changed, original)

    # Zoomed in more than out: a copy is cropped more often than it is shrunk.
    zoom, stretch = torch.exp(around(0.3) + 0.15 * strength), torch.exp(around(0.08))
    warped = change.affine(
        x,
        rotation=around(35),
        scale_x=zoom * stretch,
        scale_y=zoom / stretch,
        shift_x=around(0.2),
        shift_y=around(0.2),
        shear=around(0.1),
    )
    x = sometimes(warped, x, 0.9)
    x = sometimes(change.elastic(x, uniform(0, 2 * strength), generator), x, 0.2)
    x = sometimes(change.paste(x, x.roll(RUN, 0), uniform(0, 0.5 * strength), generator), x, 0.2)
    x = sometimes(change.blend(x, x.roll(RUN, 0), uniform(0, 0.4 * strength)), x, 0.1)
    x = sometimes(change.gamma(x, torch.exp(around(0.5))), x, 0.4)
    x = sometimes(change.remap(x, generator), x, 0.25 * strength)
    x = sometimes(change.invert(x), x, 0.1 * strength)
    x = sometimes(change.bias_field(x, uniform(0, 0.4 * strength), generator), x, 0.3)
    x = sometimes(change.blur(x, uniform(0.1, 0.1 + 1.2 * strength)), x, 0.3)
    x = sometimes(change.k_space_truncation(x, 1 - uniform(0, 0.6 * strength)), x, 0.2)
    x = sometimes(change.rician_noise(x, uniform(0, 0.05 * strength), generator), x, 0.4)
    return normalise_intensity(x, "quantile")  # as the encoder will see it
