"""The layout of MRI-CORE's checkpoint, that of DINOv2's teacher, brought to the names of `vision_transformer`."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from mi_callback.encoders.checkpoints import strip_prefix
from mi_callback.encoders.mri_core.vision_transformer import HEAD
from mi_callback.errors import EncoderError

_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_SCALED = {"ls1": "attn.proj", "ls2": "mlp.fc2"}
"""The linear map whose output each LayerScale scales."""


def teacher_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's backbone, blocks numbered through, float32.

    DINOv2 may save `blocks.<chunk>.<i>.…`; i counts through the chunks, so that the chunk can go.
    """
    below = strip_prefix(weights, "teacher.backbone.", "backbone.")
    found = {_CHUNK.sub("blocks.", key): value.float() for key, value in below.items()}
    if len(found) < len(below):
        raise EncoderError(f"needed blocks numbered through all chunks; of {len(below)} keys {len(found)} differ.")
    return found


class NetworkSizes(NamedTuple):
    """Of a vision transformer: channels of a token and within the MLPs, blocks, and patches along a side."""

    width: int
    hidden: int
    depth: int
    grid: int


def network_sizes(weights: Mapping[str, Tensor]) -> NetworkSizes:
    """The sizes of the network that was saved; those of ViT-B/16 at 224 px where the keys that tell are missing."""

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
    hidden = length("blocks.0.mlp.fc1.weight", 0, 4 * width)
    return NetworkSizes(width, hidden, max(blocks, default=11) + 1, grid)


def fold_layer_scale(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def unused(key: str) -> bool:
    return key == "mask_token"  # stands for masked patches, in training only


def unused_by_paper_code(key: str) -> bool:
    """What the paper's loader drops without a word, LayerScale too if there is any."""
    return key in ("mask_token", "cls_token", "pos_embed", "norm.weight", "norm.bias") or key.endswith(".gamma")
