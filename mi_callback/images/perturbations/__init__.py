"""What can be done to a copy: named changes with fixed strength, batched, on images in [0, 1].

Each function takes images `(n, 1, h, w)` in [0, 1] and returns the same; of several channels each is changed alike. A
strength is a float or a tensor `(n,)` (one per image). What is random takes a `torch.Generator`. `PERTURBATIONS`
names the changes with which detection is tested; every image is changed (no coin flips), so a measured power is the
power for that change.
"""

from mi_callback.images.perturbations.acquisition import (
    bias_field,
    blur,
    gaussian_noise,
    k_space_truncation,
    low_resolution,
    rician_noise,
)
from mi_callback.images.perturbations.geometric import affine, crop, elastic, flip_horizontal, flip_vertical
from mi_callback.images.perturbations.intensity import gamma, invert, remap, scale_intensity, t2_like
from mi_callback.images.perturbations.pastes import blend, implant, paste
from mi_callback.images.perturbations.patterns import grid, stripes
from mi_callback.images.perturbations.registry import (
    PASTES,
    PERTURBATIONS,
    VOLUME_PASTES,
    VOLUME_PERTURBATIONS,
    Paste,
    Perturbation,
    changes_of,
)
from mi_callback.images.perturbations.strength import Strength
from mi_callback.images.perturbations.volumes import about_every_axis, in_planes

__all__ = [
    "PASTES",
    "PERTURBATIONS",
    "VOLUME_PASTES",
    "VOLUME_PERTURBATIONS",
    "Paste",
    "Perturbation",
    "Strength",
    "about_every_axis",
    "affine",
    "bias_field",
    "blend",
    "blur",
    "changes_of",
    "crop",
    "elastic",
    "flip_horizontal",
    "flip_vertical",
    "gamma",
    "gaussian_noise",
    "grid",
    "implant",
    "in_planes",
    "invert",
    "k_space_truncation",
    "low_resolution",
    "paste",
    "remap",
    "rician_noise",
    "scale_intensity",
    "stripes",
    "t2_like",
]
