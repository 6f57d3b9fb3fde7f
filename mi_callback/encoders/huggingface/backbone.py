"""Any vision backbone of transformers as an encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mi_callback.encoders.checkpoints import first_of
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.huggingface.conventions import as_numbers, convention_size, normalisation, read_convention
from mi_callback.encoders.huggingface.families import (
    as_pair,
    check_channels,
    check_size,
    declare_layer,
    position_options,
    trained_size,
)
from mi_callback.encoders.huggingface.hidden_states import HiddenStates, choose_positions, try_states
from mi_callback.encoders.huggingface.loading import describe_loss, find_folder, load_backbone, spoil_missing
from mi_callback.encoders.pooling import Layout, Pooling, pool
from mi_callback.errors import EncoderError
from mi_callback.images.intensity import Intensity


def build_huggingface(
    model: str | Path | None = None,
    layers: Sequence[int] | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    intensity: Intensity | Sequence[float] = "minmax",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    pooling: Pooling | str = "mean",
    standardise: bool = False,
    layout: Layout | str | None = None,
    prefix_tokens: int | None = None,
    local_files_only: bool = True,
    revision: str | None = None,
    name: str | None = None,
) -> HookedEncoder:
    """Any vision backbone that `transformers.AutoModel` loads; of CLIP, SigLIP and SAM, the vision part.

    Only safetensors are read, and no code that comes with a model is run. Nothing is downloaded unless
    `local_files_only=False`. One image of zeros is encoded to see that the model keeps what is declared of it.

    Args:
        model: Hub id (`facebook/dinov2-base`), or a folder as `save_pretrained` writes it.
        layers: Positions in the model's hidden states, negative ones from the end; 0 is usually the embeddings, so
            that n is the output of the n-th block. Three evenly spread when None, the last one included: of twelve
            blocks 4, 8 and 12, which are the layers 3, 7 and 11 (counted from 0) of Deo et al. 2026.
        size: Input height and width, or one number for a square. When None, what the model's preprocessor says, else
            its config, else 224. Other sizes than the trained one work where the family can interpolate positions.
        channels: As many as the model takes when None; single-channel images are repeated.
        intensity: Scaling before `mean` and `std`, which expect [0, 1] (see `HookedEncoder`).
        mean, std: One number or one per channel. When None, what the model's preprocessor says; where it says
            nothing, those of ImageNet for three channels, else 0 and 1.
        pooling: As in `HookedEncoder`; `cls` needs a family with a CLS token.
        standardise: Bring each channel of each image to zero mean and unit variance, after `intensity` and the
            resizing, in place of `mean` and `std`.
        layout, prefix_tokens: Of the hidden states, for a `model_type` that is not in `FAMILIES`.
        local_files_only: Look in the Hugging Face cache only.
        revision: Branch, tag or commit of a hub model; a commit pins what is loaded.
        name: Shown in reports; `huggingface/` and the `model_type` when None.

    Raises:
        EncoderError: If transformers is not installed, the model is not there, its weights are pickled, missing or of
            another shape, or the model cannot do what is asked.
    """
    folder = find_folder(model, revision, local_files_only)
    backbone, missing = load_backbone(folder, str(model))
    config: Any = backbone.config
    kind: str = config.model_type
    family, layer = declare_layer(config, layout, prefix_tokens)
    convention = read_convention(folder)
    channels = check_channels(config, channels)
    sides = check_size(config, family, as_pair(size) if size else convention_size(convention) or trained_size(config))
    centre, spread = (0.0, 1.0) if standardise else normalisation(convention, channels)
    network = HiddenStates(backbone, family, standardise, position_options(backbone, sides))
    lost = spoil_missing(backbone, missing, str(model))
    states = try_states(network, torch.zeros(1, channels, *sides), kind)
    positions = choose_positions(layers, len(states), kind)
    if lost and any(states[position].isnan().any() for position in positions):
        raise EncoderError(f"{describe_loss(backbone, str(model))} missing {first_of(missing)}.")
    for tensor in lost:  # nothing that is asked for depends on them; zeros keep the fingerprint the same
        tensor.zero_()
    network.tap(positions)
    for position in positions:
        pool(states[position], layer, pooling, f"hidden.{position}")  # refuses a layout that is not so
    return HookedEncoder(
        network,
        {f"hidden.{position}": layer for position in positions},
        size=sides,
        channels=channels,
        intensity=intensity,
        pooling=pooling,
        name=name or f"huggingface/{kind}",
        mean=centre if mean is None else as_numbers(mean),
        std=spread if std is None else as_numbers(std),
    )
