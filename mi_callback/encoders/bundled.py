"""The encoder that ships in the wheel: a small residual CNN trained to recognise copies of MRI slices."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mi_callback.encoders.checkpoints import load_weights, shipped_or
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.pooling import Layer

SIZE = 96
"""Input side, in pixels, at which it was trained."""

WIDTHS = (24, 48, 96, 192)
"""Channels of its stages."""

TAPPED = ("stages.1", "stages.2", "stages.3")
"""Stages whose pooled maps are features: the last three, as the training of the weights pooled them."""

WEIGHTS = "bundled.safetensors"
"""File in `weights/`."""


class CopyNet(nn.Module):
    """Four stages, each halving the resolution: strided convolution, then one residual block.

    With the widths of the package 1.1 M parameters.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(Stage(i, o) for i, o in zip((1, *widths), widths, strict=False)))

    def forward(self, images: Float[Tensor, "n 1 h w"]) -> list[Float[Tensor, "n widths rows columns"]]:
        """The maps of the stages for images in [0, 1]."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class Stage(nn.Module):
    """Halve the resolution, then refine with a residual block whose last scale starts at zero."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.conv1 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h/2 w/2"]:
        x = F.relu(self.norm(self.reduce(x)))
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def build_bundled(checkpoint: str | Path | None = None) -> HookedEncoder:
    """The bundled encoder, or another training of it, narrower or wider ones too.

    Args:
        checkpoint: safetensors written by `examples/train_encoder.py`; the weights of the package when None.

    Raises:
        EncoderError: If the weights are missing or belong to another network.
    """
    path, weights = shipped_or(checkpoint, WEIGHTS)
    with torch.device("meta"):  # no random initial weights: they would move the global random state
        network = CopyNet(widths_of(weights, WIDTHS))
    load_weights(network, weights, path)
    return HookedEncoder(
        network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        layers={name: Layer("BCHW") for name in TAPPED},
        size=SIZE,
        intensity="quantile",
        pooling="gem",
        name="bundled",
    )


def widths_of(weights: Mapping[str, Tensor], usual: Sequence[int]) -> tuple[int, ...]:
    """Of the stages of a network that was saved; of another one the usual, and loading says what does not fit."""
    scales = [weights.get(f"stages.{stage}.norm.weight") for stage in range(len(usual))]
    return tuple(width if scale is None else scale.numel() for scale, width in zip(scales, usual, strict=True))
