"""The vision transformer of MONAI, of images and volumes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

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
from mi_callback.encoders.pooling import Layer
from mi_callback.errors import EncoderError, choice

POSITIONS = ("learnable", "sincos", "none")
"""Embeddings of the positions that MONAI has."""


def build_monai_vit(
    checkpoint: str | Path | None = None,
    dims: int = 3,
    size: int | Sequence[int] | None = None,
    patch: int = 16,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp: int | None = None,
    class_token: bool = False,
    position: str = "learnable",
    qkv_bias: bool = False,
    channels: int = 1,
    taps: int = 3,
    layers: Layers | None = None,
    prefix: str = "",
    unused: Sequence[str] = (),
    sha256: str | None = None,
    seed: int = 0,
    name: str = "monai_vit",
    **options: Any,
) -> HookedEncoder:
    """`monai.networks.nets.ViT`, tapped behind blocks that are spread evenly over its depth.

    The defaults are a ViT-B/16³ at 96³ voxels without a class token, as BrainIAC is one (whose weights are for
    non-commercial use only).

    Args:
        checkpoint: safetensors or a `torch.save` file of tensors, or `"random"`.
        dims: 3 for volumes, 2 for images.
        size: Of the input, a multiple of `patch`; 96 along each side of volumes and 224 of images when None. Learnt
            position embeddings fit one size only.
        width: Of the tokens.
        depth: Number of blocks.
        heads: Of attention, in each block.
        mlp: Width of the hidden layer in each block; four times that of the tokens when None.
        class_token: Whether a token stands in front of those of the patches (`classification=True` in MONAI).
        position: `learnable` or `sincos` embeddings of the positions, or `none`.
        qkv_bias: Whether queries, keys and values have biases.
        taps: How many blocks are tapped.
        layers: Submodules to tap instead, with their layouts.
        prefix: What the keys of the network begin with in the checkpoint; `module.`, `backbone.`, `vit.` and
            `encoder.` are recognised.
        unused: Beginnings of keys of the checkpoint that are not of the network. MONAI's classification head, and the
            cross attention that its older versions wrote and never used, need not be named.
        sha256: Hexadecimal digest that the checkpoint must have.
        seed: Of random weights.
        options: Others of `HookedEncoder`: `intensity` (by default `zscore`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network; if an option is unknown.
    """
    check_dims(dims)
    choice("a position", position, POSITIONS, EncoderError)
    sides = expand_size(size or (96 if dims == 3 else 224), dims)
    if any(side % patch for side in sides) or width % heads or not 1 <= taps <= depth:
        raise EncoderError(
            f"needed sides that are multiples of the patch, a width that is one of the heads, and 1 to depth taps; "
            f"size {sides}, patch {patch}, width {width}, heads {heads}, depth {depth} and taps {taps} came."
        )

    def build() -> nn.Module:
        check_einops()
        from monai.networks.nets import ViT

        network: nn.Module = ViT(
            in_channels=channels,
            img_size=sides,
            patch_size=patch,
            hidden_size=width,
            mlp_dim=mlp or 4 * width,
            num_layers=depth,
            num_heads=heads,
            pos_embed_type=position,
            classification=class_token,
            qkv_bias=qkv_bias,
            spatial_dims=dims,
        )
        if class_token:
            del network.classification_head  # nothing taps it, and checkpoints of encoders have none
        return network

    def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return strip_wrappers(weights, prefix, "backbone.", "vit.", "encoder.")

    network = load_or_draw_weights(
        build, checkpoint, seed, sha256, renamed, ("classification_head.", *unused), lambda key: "cross_attn" in key
    )
    blocks = [round((k + 1) * depth / taps) - 1 for k in range(taps)]
    declared = {"size": sides, "channels": channels, "intensity": "zscore"}
    layers = layers or {f"blocks.{block}": Layer("BNC", int(class_token)) for block in blocks}
    return tap_network(network, layers, checkpoint, seed, name, **{**declared, **options})
