"""The builder of MRI-CORE: the network as it was trained, or as the code of the memorization-index paper runs it."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from mi_callback.encoders.catalogue import CATALOGUE
from mi_callback.encoders.checkpoints import load_weights, read_checkpoint
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.mri_core.checkpoint import (
    fold_layer_scale,
    network_sizes,
    teacher_backbone,
    unused,
    unused_by_paper_code,
)
from mi_callback.encoders.mri_core.paper_code import SIZE, RowProfiles
from mi_callback.encoders.mri_core.vision_transformer import PATCH, VisionTransformer
from mi_callback.encoders.pooling import Layer, Pooling
from mi_callback.errors import EncoderError, choice
from mi_callback.types import Kind


class Mode(Kind):
    """Which computation the weights are put into: that which they were trained in, or that of the paper's code."""

    NATIVE = "native"
    REFERENCE_COMPAT = "reference_compat"


def build_mri_core(
    checkpoint: str | Path | None = None,
    layers: Sequence[int] = (3, 7, 11),
    pooling: Pooling | str = "mean",
    sha256: str | None = None,
    mode: Mode | str = "native",
) -> HookedEncoder:
    """MRI-CORE's image encoder from `MRI_CORE_vitb.pth`, which you fetch; nothing is downloaded.

    `native` is the network as it was trained: plain ViT-B/16, 224 px, class token and position embedding in use. Slices
    are scaled to [0, 1] each and repeated to three channels. Layers are `blocks.3`, …, with 768 channels.

    `reference_compat` gives what the public code of the memorization-index paper computes from the same file, faults
    included: row profiles of 15 numbers, layers `profiles.3`, …. For comparison with that paper only; what it does, and
    how far that was verified, says `paper_code`.

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
    mode = choice("a mode", mode, Mode, EncoderError)
    if mode is Mode.REFERENCE_COMPAT and pooling != "mean":
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
        name="mri_core" if mode is Mode.NATIVE else "mri_core_reference",
    )


def _network(checkpoint: str | Path, sha256: str | None, mode: Mode) -> VisionTransformer | RowProfiles:
    weights = teacher_backbone(read_checkpoint(checkpoint, sha256))
    width, hidden, depth, grid = network_sizes(weights)
    network: VisionTransformer | RowProfiles
    with torch.device("meta"):  # no random initial weights: they would move the global random state
        if mode is Mode.NATIVE:
            network = VisionTransformer(width, hidden, depth, grid)
            weights = fold_layer_scale(weights)
        else:
            network = RowProfiles(width, hidden, depth)
    load_weights(network, weights, checkpoint, unused=unused if mode is Mode.NATIVE else unused_by_paper_code)
    return network
