"""MRI-CORE (Dong et al. 2025): a ViT-B/16 trained on MRI slices of many anatomies, from its published checkpoint."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mi_callback.encoders.base import HookedEncoder
from mi_callback.encoders.catalogue import CATALOGUE
from mi_callback.encoders.checkpoints import load_weights, read_checkpoint, strip_prefix
from mi_callback.encoders.mri_core_reference import SIZE, RowProfiles
from mi_callback.encoders.pooling import Layer, Pooling
from mi_callback.encoders.vit import HEAD, PATCH, VisionTransformer
from mi_callback.errors import EncoderError

Mode = Literal["native", "reference_compat"]

_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_SCALED = {"ls1": "attn.proj", "ls2": "mlp.fc2"}
"""The linear map whose output each LayerScale scales."""


def build_mri_core(
    checkpoint: str | Path | None = None,
    layers: Sequence[int] = (3, 7, 11),
    pooling: Pooling = "mean",
    sha256: str | None = None,
    mode: Mode = "native",
) -> HookedEncoder:
    """MRI-CORE's image encoder from `MRI_CORE_vitb.pth`, which you fetch; nothing is downloaded.

    `native` is the network as it was trained: plain ViT-B/16, 224 px, class token and position embedding in use. Slices
    are scaled to [0, 1] each and repeated to three channels. Layers are `blocks.3`, …, with 768 channels.

    `reference_compat` gives what the public code of the memorization-index paper computes from the same file, faults
    included: row profiles of 15 numbers, layers `profiles.3`, …. For comparison with that paper only; what it does, and
    how far that was verified, says `mri_core_reference`.

    Depth, width and native image size are those of the checkpoint; heads have 64 channels. Of the file, the backbone of
    the teacher is read, with blocks in the chunks of DINOv2 or without; student, heads and optimizer are left alone.

    Args:
        checkpoint: The file, or the same tensors as safetensors.
        layers: Blocks whose outputs are features, counted from 0.
        pooling: As for `HookedEncoder`; `cls` is the class token. `reference_compat` knows `mean` only.
        sha256: Digest that the file must have.
        mode: `native` or `reference_compat`.

    Raises:
        EncoderError: If the file is missing, has another digest, needs a pickle, or holds other weights than those of
            a ViT/16, with the keys at fault; if a block, pooling or mode does not exist.

    References:
        Dong et al., "MRI-CORE: A Foundation Model for Magnetic Resonance Imaging", arXiv 2506.12186. Its README gives
        the file and the input's scaling. The file's layout, that of DINOv2's teacher, is known here from public loaders
        of it, not from the file itself: keys that differ are refused.
    """
    source = CATALOGUE["mri_core"].card.source
    if checkpoint is None:
        raise EncoderError(f"needed a checkpoint; None came. Fetch {source}: nothing is downloaded.")
    if mode not in ("native", "reference_compat"):
        raise EncoderError(f"needed mode native or reference_compat; {mode!r} came.")
    if mode == "reference_compat" and pooling != "mean":
        raise EncoderError(f"needed pooling mean for mode reference_compat, which has no other; {pooling!r} came.")
    try:
        network = _network(checkpoint, sha256, mode)
    except EncoderError as error:
        raise EncoderError(f"{error} Expected: {source}.") from error
    depth = len(network.blocks)
    if outside := [i for i in layers if i not in range(depth)]:
        raise EncoderError(f"needed layers out of 0 to {depth - 1}, the blocks in {checkpoint}; {outside} came.")
    if isinstance(network, RowProfiles):
        tapped, size = {f"profiles.{i}": Layer("BC") for i in layers}, SIZE
    else:
        tapped = {f"blocks.{i}": Layer("BNC", prefix_tokens=1) for i in layers}
        size = PATCH * math.isqrt(network.pos_embed.shape[1] - 1)
    return HookedEncoder(
        network,
        layers=tapped,
        size=size,
        channels=3,
        intensity="minmax",
        pooling=pooling,
        name="mri_core" if mode == "native" else "mri_core_reference",
    )


def _network(checkpoint: str | Path, sha256: str | None, mode: Mode) -> VisionTransformer | RowProfiles:
    weights = _backbone(read_checkpoint(checkpoint, sha256))
    width, hidden, depth, grid = _sizes(weights)
    network: VisionTransformer | RowProfiles
    with torch.device("meta"):  # no random initial weights: they would move the global random state
        if mode == "native":
            network = VisionTransformer(width, hidden, depth, grid)
            weights = _fold_layer_scale(weights)
        else:
            network = RowProfiles(width, hidden, depth)
    load_weights(network, weights, checkpoint, unused=_unused if mode == "native" else _unused_by_the_reference)
    return network


def _backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's backbone, blocks numbered through, float32.

    DINOv2 may save `blocks.<chunk>.<i>.…`; i counts through the chunks, so that the chunk can go.
    """
    below = strip_prefix(weights, "teacher.backbone.", "backbone.")
    found = {_CHUNK.sub("blocks.", key): value.float() for key, value in below.items()}
    if len(found) < len(below):
        raise EncoderError(f"needed blocks numbered through all chunks; of {len(below)} keys {len(found)} differ.")
    return found


def _sizes(weights: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    """Width, hidden width, depth and grid; those of ViT-B/16 at 224 px where the keys that tell are missing."""

    def length(key: str, axis: int, otherwise: int) -> int:
        return weights[key].shape[axis] if key in weights and weights[key].ndim > axis else otherwise

    width, tokens = length("patch_embed.proj.weight", 0, 768), length("pos_embed", 1, 197)
    blocks = {int(found[1]) for key in weights if (found := _BLOCK.match(key))}
    grid = math.isqrt(max(tokens - 1, 0))
    if width % HEAD or grid < 1 or tokens != 1 + grid**2:
        raise EncoderError(
            f"needed a width that is a multiple of {HEAD} and positions of a class token and a square of patches; "
            f"patch_embed.proj.weight has {width} and pos_embed {tokens}."
        )
    return width, length("blocks.0.mlp.fc1.weight", 0, 4 * width), max(blocks, default=11) + 1, grid


def _fold_layer_scale(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LayerScale (`ls1.gamma`, `ls2.gamma`) multiplied into the linear map before it: the same, without the layer."""
    folded = dict(weights)
    for key in weights:
        block, _, scale = key.removesuffix(".gamma").rpartition(".")
        linear = f"{block}.{_SCALED.get(scale)}"
        if not key.endswith(".gamma") or f"{linear}.weight" not in weights or f"{linear}.bias" not in weights:
            continue
        gamma = folded.pop(key)
        if gamma.shape != weights[f"{linear}.bias"].shape:
            raise EncoderError(f"needed {key} of the shape of {linear}.bias; it has {tuple(gamma.shape)}.")
        folded[f"{linear}.weight"] = weights[f"{linear}.weight"] * gamma[:, None]
        folded[f"{linear}.bias"] = weights[f"{linear}.bias"] * gamma
    return folded


def _unused(key: str) -> bool:
    return key == "mask_token"  # stands for masked patches, in training only


def _unused_by_the_reference(key: str) -> bool:
    """What the paper's loader drops without a word, LayerScale too if there is any."""
    return key in ("mask_token", "cls_token", "pos_embed", "norm.weight", "norm.bias") or key.endswith(".gamma")
