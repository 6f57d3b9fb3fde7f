"""The Swin encoder of MONAI's SwinUNETR, of images and volumes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mi_callback.encoders.checkpoints import strip_prefix
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.monai.weights import (
    Layers,
    check_dims,
    check_einops,
    expand_size,
    load_or_draw_weights,
    strip_wrappers,
    tap_network,
)
from mi_callback.encoders.pooling import Layout
from mi_callback.errors import EncoderError


def build_swin_unetr(
    checkpoint: str | Path | None = None,
    dims: int = 3,
    size: int | Sequence[int] = 96,
    channels: int = 1,
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    use_v2: bool = False,
    layers: Layers | None = None,
    prefix: str = "",
    sha256: str | None = None,
    seed: int = 0,
    name: str = "swin_unetr",
    **options: Any,
) -> HookedEncoder:
    """The encoder of MONAI's SwinUNETR (`swinViT`), its last three stages tapped at 1/8, 1/16 and 1/32 of the input.

    What is tapped is each stage's output, before the normalisation that goes with it into the decoder. Checkpoints of
    the encoder (`model_swinvit.pt`, of self-supervised training with heads beside it, as BrainSegFounder writes them,
    too) and of a whole SwinUNETR are both read; everything that is not of the encoder is left out.

    `model_swinvit.pt` was trained on CT in Hounsfield units, of which the window from −1000 to 1000 became [0, 1]: for
    CT pass `intensity=(-1000, 1000)`. Other images are scaled to [0, 1] by their quantiles.

    Args:
        checkpoint: safetensors or a `torch.save` file of tensors, or `"random"`.
        dims: 3 for volumes, 2 for images.
        size: Of the input; multiples of 32.
        channels: Of the weights: 1 for `model_swinvit.pt`, 2 or 4 for some of BrainSegFounder; grey is repeated.
        feature_size: Channels of the first stage, a multiple of 12.
        depths: Number of blocks in each stage.
        heads: Of attention, in each stage.
        window: Side of the attention windows.
        use_v2: Whether residual convolutions stand in front of the stages (SwinUNETR-V2).
        layers: Other submodules to tap, with their layouts; stages are `layers1.0` to `layers4.0`.
        prefix: What the keys of the encoder begin with in the checkpoint; `module.`, `backbone.`, `student.`,
            `swinViT.`, `swin_vit.` and `encoder.` are recognised.
        sha256: Hexadecimal digest that the checkpoint must have.
        seed: Of random weights.
        options: Others of `HookedEncoder`: `intensity` (by default `quantile`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network.

    References:
        Tang et al., "Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis", CVPR 2022.
        Hatamizadeh et al., "Swin UNETR", arXiv 2201.01266 (2022).
    """
    check_dims(dims)
    sides = expand_size(size, dims)
    if any(side % 32 for side in sides) or feature_size % 12 or not len(depths) == len(heads) == 4:
        raise EncoderError(
            "needed sides that are multiples of 32, a feature_size that is one of 12, and four depths and heads; size "
            f"{sides}, feature_size {feature_size}, depths {tuple(depths)} and heads {tuple(heads)} came."
        )

    def build() -> nn.Module:
        check_einops()
        from monai.networks.nets.swin_unetr import SwinTransformer

        network: nn.Module = SwinTransformer(
            in_chans=channels,
            embed_dim=feature_size,
            window_size=(window,) * dims,
            patch_size=(2,) * dims,
            depths=tuple(depths),
            num_heads=tuple(heads),
            spatial_dims=dims,
            use_v2=use_v2,
        )
        return network

    def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _encoder_keys(strip_wrappers(weights, prefix, "student.", "backbone."))

    # The index of relative positions follows from the window: it is computed, not learnt, and may be absent.
    network = load_or_draw_weights(
        build, checkpoint, seed, sha256, renamed, (), lambda key: key.endswith("position_index")
    )
    layout = Layout.BCDHW if dims == 3 else Layout.BCHW
    declared = {"size": sides, "channels": channels, "intensity": "quantile"}
    layers = layers or {"layers2.0": layout, "layers3.0": layout, "layers4.0": layout}
    return tap_network(network, layers, checkpoint, seed, name, **{**declared, **options})


def _encoder_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys as MONAI names them now, and of the encoder alone."""
    named = {}
    for key, value in strip_prefix(weights, "swinViT.", "swin_vit.", "encoder.").items():
        key = key.replace(".mlp.fc", ".mlp.linear")
        key = re.sub(r"^(layers\d\.0)\.0\.", r"\1.", key)  # disruptive autoencoders nest their stages once more
        if key.startswith(("patch_embed.", "layers")):
            named[key] = value
    return named
