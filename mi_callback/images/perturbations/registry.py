"""The named changes with which detection is tested, of images and of volumes."""

from collections.abc import Callable

import torch
from torch import Tensor

from mi_callback.images.perturbations.acquisition import bias_field, blur, gaussian_noise, low_resolution
from mi_callback.images.perturbations.geometric import affine, crop, elastic, flip_horizontal, flip_vertical
from mi_callback.images.perturbations.intensity import gamma, invert, scale_intensity, t2_like
from mi_callback.images.perturbations.pastes import blend, implant, paste
from mi_callback.images.perturbations.volumes import about_every_axis, in_planes

Perturbation = Callable[[Tensor, torch.Generator], Tensor]
"""Images in [0, 1] → changed images; the generator draws what is random."""

Paste = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Images, as many of other people → what is partly the one and partly the other."""

PERTURBATIONS: dict[str, Perturbation] = {
    "exact": lambda x, g: x,
    "noise_0.01": lambda x, g: gaussian_noise(x, 0.01, g),
    "noise_0.02": lambda x, g: gaussian_noise(x, 0.02, g),
    "intensity_0.9": lambda x, g: scale_intensity(x, 0.9),
    "intensity_1.1": lambda x, g: scale_intensity(x, 1.1),
    "rotation_5": lambda x, g: affine(x, rotation=5.0),
    "flip_horizontal": lambda x, g: flip_horizontal(x),
    "flip_vertical": lambda x, g: flip_vertical(x),
    "crop_0.9": lambda x, g: crop(x, 0.9),
    "shift_0.1": lambda x, g: affine(x, shift_x=0.1, shift_y=0.1),
    "rotation_15": lambda x, g: affine(x, rotation=15.0),
    "gamma_0.7": lambda x, g: gamma(x, 0.7),
    "gamma_1.4": lambda x, g: gamma(x, 1.4),
    "blur_1": lambda x, g: blur(x, 1.0),
    "bias_field": lambda x, g: bias_field(x, 0.3, g),
    "half_resolution": lambda x, g: low_resolution(x, 2.0),
    "elastic_2": lambda x, g: elastic(x, 2.0, g),
    "combined": lambda x, g: gaussian_noise(
        scale_intensity(affine(flip_horizontal(x), rotation=10.0, scale_x=1.1, scale_y=1.1), 0.9), 0.02, g
    ),
    "rotation_30": lambda x, g: affine(x, rotation=30.0),
    "quarter_turn": lambda x, g: torch.rot90(x, 1, (-2, -1)),
    "crop_0.7": lambda x, g: crop(x, 0.7),
    "inverted": lambda x, g: invert(x),
    "t2_like": lambda x, g: t2_like(x),
}
"""Name → change. The first eight are of the kind the paper tests; the rest are what leaked copies look like."""

PASTES: dict[str, Paste] = {
    "blend_0.3": lambda x, others, g: blend(x, others, 0.3),
    "half_pasted": lambda x, others, g: paste(x, others, 0.5, g),
    "quarter_pasted": lambda x, others, g: implant(x, others, 0.5),
}
"""Name → change that needs images of other people: mixed in, or those into which a part of the copy is pasted."""

VOLUME_PERTURBATIONS: dict[str, Perturbation] = {
    name: about_every_axis(change) if name == "rotation_5" else in_planes(change)
    for name, change in PERTURBATIONS.items()
    # Quarter turns are not among the poses of volumes, and their sides have half as many pixels.
    if name not in ("quarter_turn", "rotation_30", "elastic_2")
} | {
    "flip_depth": lambda x, g: x.flip(-3),
    "elastic_1": about_every_axis(lambda x, g: elastic(x, 0.7, g)),  # two displacements along each axis add up
}
"""The same for volumes. Rotations by 5° and elastic warps are about every axis; other changes are in the last two."""

VOLUME_PASTES: dict[str, Paste] = {name: in_planes(change) for name, change in PASTES.items()}


def changes_of(dims: int) -> tuple[dict[str, Perturbation], dict[str, Paste]]:
    """Changes, and pastes, of images (2) or volumes (3)."""
    return (PERTURBATIONS, PASTES) if dims == 2 else (VOLUME_PERTURBATIONS, VOLUME_PASTES)
