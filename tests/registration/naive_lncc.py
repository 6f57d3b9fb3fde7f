"""The local correlation by an obvious loop, and noise to try it on."""

import itertools

import numpy as np
import torch

from mi_callback.registration.config import registration_config
from mi_callback.registration.local_correlation import LocalCorrelation, correlate_locally

ALIKE = 0.9
"""Level of the LNCC at which shares are looked at."""


def correlated_noise(dims: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, other noise that correlates with it by about `ALIKE`, and where both are."""
    rng = np.random.default_rng(0)
    generated, aligned = rng.random((2, *(side,) * dims))
    aligned = 0.67 * generated + 0.33 * aligned
    if dims == 3:
        generated[:, :5] *= 0.1  # little structure
    inside = np.ones((side,) * dims)
    inside[..., side - 3 :] = 0
    if dims == 3:
        inside[0, 0, 0] = 0  # one voxel alone, at the corner of a window
    return generated, aligned, inside


def naive_maps(generated: np.ndarray, aligned: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, ...]:
    """LNCC, 0 outside the overlap, structure, and structure in the overlap, of every window in a loop."""
    config = registration_config(generated.ndim).local_correlation
    lncc, structure, weight = (np.zeros(generated.shape) for _ in range(3))
    for place in itertools.product(*map(range, generated.shape)):
        radius = config.window // 2
        window = tuple(slice(max(0, at - radius), at + radius + 1) for at in place)
        a, b = generated[window].ravel(), aligned[window].ravel()
        structure[place] = min(1, a.std() / config.full_structure)
        if inside[window].all():
            lncc[place] = abs(((a - a.mean()) * (b - b.mean())).mean()) / (a.std() * b.std())
            weight[place] = structure[place]
    return lncc, structure, weight


def fast_maps(generated: np.ndarray, aligned: np.ndarray, inside: np.ndarray) -> LocalCorrelation:
    maps = (torch.from_numpy(image).float()[None, None] for image in (generated, aligned, inside))
    return correlate_locally(*maps, registration_config(generated.ndim).local_correlation)
