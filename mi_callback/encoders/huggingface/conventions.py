"""The input that a model was trained on, as the settings of its image processor tell it: size, mean and deviation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_callback.encoders.checkpoints import describe_error
from mi_callback.encoders.huggingface.families import as_pair
from mi_callback.errors import EncoderError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of natural images in [0, 1], red, green and blue: what most backbones were trained with."""


def read_convention(folder: Path) -> Mapping[str, Any]:
    """The settings of the model's image processor, where it has one."""
    for path in (folder / "preprocessor_config.json", folder / "processor_config.json"):
        if path.is_file():
            try:
                settings = json.loads(path.read_text())
            except ValueError as error:
                raise EncoderError(f"needed JSON in {path}; {describe_error(error)}.") from error
            return settings.get("image_processor", settings)
    return {}


def convention_size(convention: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that the processor crops to, or else resizes to; None where it says neither."""
    crops = convention.get("do_center_crop") is not False
    size = (convention.get("crop_size") if crops else None) or convention.get("size")
    return as_pair(size) if size else None


def normalisation(convention: Mapping[str, Any], channels: int) -> tuple[Any, Any]:
    """Mean and deviation for images in [0, 1]: the processor's, else ImageNet's for three channels, else 0 and 1."""
    if convention.get("do_normalize") is False:
        return 0.0, 1.0
    if "image_mean" not in convention:
        return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (0.0, 1.0)
    # The processor sees 0 to 255 and scales it, nearly always by 1/255.
    gain = 1.0 if convention.get("do_rescale") is False else 255 * convention.get("rescale_factor", 1 / 255)
    mean, std = as_numbers(convention["image_mean"]), as_numbers(convention["image_std"])
    return [value / gain for value in mean], [value / gain for value in std]


def as_numbers(values: float | Sequence[float]) -> list[float]:
    """A list of one number or several, which may come as a list of OmegaConf."""
    return [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]
