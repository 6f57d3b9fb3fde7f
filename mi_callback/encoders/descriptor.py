"""The copy descriptor that ships in the wheel: one vector of an image that hardly changes when the image is changed.

Trained so that an image is found again after it was turned, magnified, moved, bent, cut, recoloured, blurred, or mixed
with another one. It sees thumbnails, so that a training set that is kept can be described again without its files.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mi_callback.encoders.bundled import Stage, widths_of
from mi_callback.encoders.checkpoints import file_digest, load_weights, shipped, shipped_or
from mi_callback.encoders.pooling import generalised_mean
from mi_callback.images.contrast.edges import edge_strength
from mi_callback.images.perturbations import affine
from mi_callback.images.poses import POSES
from mi_callback.images.resizing import resize
from mi_callback.images.thumbnails import as_images
from mi_callback.types import Thumbnails

SIDE = 64
"""Side of the images that are described, in pixels."""

SCALES = (0.8, 2.0)
"""Scales of the edges, in pixels."""

WIDTHS = (24, 48, 96, 192)
"""Channels of the stages; the last three are pooled."""

DIMENSIONS = 128
"""Length of a descriptor."""

WEIGHTS = "descriptor.safetensors"
"""File in `weights/`."""

AT_ONCE = 128
"""Images described at a time; bounds the memory."""


AS_IT_IS = "as_it_is"
"""The look in which queries are described, and nothing is changed."""


def recolour(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Images in [0, 1] as another contrast would show them: dark becomes bright, bright dark, black stays black.

    min(4x, 1.25 − x): what T2 roughly makes of T1, and T1 of T2. Its edges lie where those of the image do not.
    """
    return torch.minimum(4 * images, 1.25 - images)


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    AS_IT_IS: lambda x: x,
    "recoloured": recolour,
    "turned_left": lambda x: affine(x, rotation=-25.0),
    "turned_right": lambda x: affine(x, rotation=25.0),
    "magnified": lambda x: affine(x, scale_x=1.4, scale_y=1.4),
}
"""Name → change of the training images before they are described: what is far for the descriptor comes near."""


class DescriptorNet(nn.Module):
    """Fine and coarse edges → four stages, each halving the resolution → the pooled last three → one unit vector.

    Edges alone: what contrast an image has plays no part.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, dimensions: int = DIMENSIONS) -> None:
        super().__init__()
        channels = (len(SCALES), *widths)
        self.stages = nn.ModuleList(Stage(i, o) for i, o in zip(channels, widths, strict=False))
        # Standardised over batches in training: stages differ in scale.
        self.norm = nn.BatchNorm1d(sum(widths[1:]), affine=False)
        self.head = nn.Linear(sum(widths[1:]), dimensions)

    def forward(self, images: Float[Tensor, "n 1 side side"]) -> Float[Tensor, "n d"]:
        """Descriptors, of unit length, of images in [0, 1]."""
        return F.normalize(self.head(self.norm(self.pooled(images))), dim=1)

    def pooled(self, images: Float[Tensor, "n 1 side side"]) -> Float[Tensor, "n widths"]:
        """The generalised means of the last three stages, side by side."""
        edges = torch.cat([edge_strength(images, scale) for scale in SCALES], dim=1)
        seen = edges.contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            seen = stage(seen)
            maps.append(seen)
        return torch.cat([generalised_mean(stage.float().flatten(2)) for stage in maps[1:]], dim=1)


@lru_cache
def descriptor_fingerprint() -> str:
    """Hash of the weights of the package's descriptor."""
    with shipped(WEIGHTS) as path:
        return file_digest(path)


@lru_cache
def copy_descriptor(checkpoint: str | Path | None = None) -> DescriptorNet:
    """The descriptor of the package, or another training of it, narrower or wider ones too; in eval mode.

    Args:
        checkpoint: safetensors written by `examples/train_descriptor.py`; the weights of the package when None.

    Raises:
        EncoderError: If the weights are missing or belong to another network.
    """
    path, weights = shipped_or(checkpoint, WEIGHTS)
    with torch.device("meta"):  # no random initial weights: they would move the global random state
        network = DescriptorNet(widths_of(weights, WIDTHS))
    load_weights(network, weights, path)
    _fold_norms(network.eval())
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.requires_grad_(False)


def _fold_norms(network: DescriptorNet) -> None:
    """Scales of the norms into the convolutions before them: the same numbers, an eighth sooner."""
    for stage in network.stages:
        for convolution, norm in (("reduce", "norm"), ("conv1", "norm1"), ("conv2", "norm2")):
            setattr(stage, convolution, fuse_conv_bn_eval(getattr(stage, convolution), getattr(stage, norm)))
            setattr(stage, norm, nn.Identity())


@torch.no_grad()
def describe(
    network: DescriptorNet, thumbnails: Thumbnails, poses: Sequence[str], look: str = AS_IT_IS
) -> Float[Tensor, "poses n d"]:
    """Descriptors of thumbnails in every pose, of unit length, float32 on the CPU.

    Args:
        network: What describes; thumbnails go where it is.
        thumbnails: Of images, `(n, side, side)`.
        poses: Names out of `POSES`.
        look: Name out of `LOOKS`: how the images are changed before.
    """
    device = next(network.parameters()).device
    found = []
    with torch.autocast(device.type, enabled=False):
        for some in thumbnails.split(AT_ONCE):
            images = LOOKS[look](resize(as_images(some.to(device)), (SIDE, SIDE)))
            found.append(torch.stack([network(POSES[pose](images)) for pose in poses]).cpu())
    return torch.cat(found, dim=1)
