"""An encoder of volumes from one of images: each slice on its own, pooled along the slicing axis."""

import hashlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_callback.encoders.pooling import Layer
from mi_callback.encoders.protocol import Card, Encoder, RegionalFeatures
from mi_callback.encoders.registry import build_encoder
from mi_callback.errors import EncoderError
from mi_callback.images.windows import WINDOWS_PER_SIDE, window_weights
from mi_callback.types import LayerFeatures

AXES = ("depth", "height", "width")
AT_ONCE = 512
"""Slices encoded at a time; bounds the memory."""

Volumes = Float[Tensor, "n c d h w"]


class SliceEncoder(nn.Module):
    """Features of a volume: the means over its slices, across each axis, of the features of an encoder of images.

    A layer of the image encoder becomes one `{layer} across {axis}` for each axis. The mean does not know where in the
    volume a slice lies; windows of the volume (`with_windows`) do, to half its sides, and registration in three
    dimensions follows.

    Args:
        encoder: Of images, with a square input.
        axes: Slicing axes: positions among the last three, 0 is the depth.
        slices: Slices per axis; a volume that has more is averaged over neighbouring ones.

    Raises:
        EncoderError: If the encoder is not one of square images, or there are no axes or slices.
    """

    def __init__(self, encoder: Encoder, axes: Sequence[int] = (0, 1, 2), slices: int = 24) -> None:
        super().__init__()
        if len(encoder.size) != 2 or encoder.size[0] != encoder.size[1]:
            raise EncoderError(f"needed an encoder of square images; that of {encoder.name!r} are {encoder.size}.")
        if not axes or not set(axes) <= {0, 1, 2} or slices < 1:
            raise EncoderError(f"needed axes out of 0, 1, 2 and at least 1 slice; {tuple(axes)} and {slices} came.")
        self.encoder, self.axes, self.slices = encoder, tuple(dict.fromkeys(axes)), slices
        self.name = f"slices({encoder.name})"
        self.size = (encoder.size[0],) * 3
        self.channels, self.intensity = encoder.channels, encoder.intensity
        self.card: Card = getattr(encoder, "card", Card())
        self.layers = {_across(layer, axis): Layer("BC") for axis, layer in product(self.axes, encoder.layers)}

    def forward(self, volumes: Volumes) -> LayerFeatures:
        """Features of each layer across each axis."""
        return {
            _across(layer, axis): features.mean(dim=1)
            for axis in self.axes
            for layer, features in self._encode_slices(volumes, axis, windowed=False).whole.items()
        }

    def with_windows(self, volumes: Volumes) -> RegionalFeatures:
        """As `forward`, and the same of each of the 27 windows of a volume."""
        whole, windows = LayerFeatures(), LayerFeatures()
        for axis in self.axes:
            of_slices, of_windows = self._encode_slices(volumes, axis, windowed=True)
            whole |= {_across(layer, axis): features.mean(dim=1) for layer, features in of_slices.items()}
            windows |= {_across(layer, axis): self._pool_slices(f, axis) for layer, f in of_windows.items()}
        return RegionalFeatures(whole, windows)

    def fingerprint(self) -> str:
        """Changes when any feature could."""
        spec = repr((self.name, self.encoder.fingerprint(), self.axes, self.slices))
        return hashlib.blake2b(spec.encode(), digest_size=16).hexdigest()

    @torch.no_grad()
    def _encode_slices(self, volumes: Volumes, axis: int, windowed: bool) -> RegionalFeatures:
        """Features of all slices across an axis, `(n, slices, d)`, and of the windows of each, `(n, slices, w, d)`."""
        with_windows: Any = getattr(self.encoder, "with_windows", None) if windowed else None
        found = [
            with_windows(chunk) if with_windows else RegionalFeatures(self.encoder(chunk), {})
            for chunk in self._slice(volumes, axis).split(AT_ONCE)
        ]
        each = (len(volumes), self.slices)
        return RegionalFeatures(
            *(
                {key: torch.cat([features[k][key] for features in found]).unflatten(0, each) for key in found[0][k]}
                for k in (0, 1)
            )
        )

    def _slice(self, volumes: Volumes, axis: int) -> Float[Tensor, "slices c side side"]:
        """All slices of all volumes across an axis, as many of each as the encoder takes."""
        stacks = volumes.movedim(2 + axis, 1)  # slices before channels
        slabs = stacks.flatten(2).transpose(1, 2)
        slabs = nn.functional.adaptive_avg_pool1d(slabs, self.slices).transpose(1, 2)
        return slabs.reshape(len(volumes) * self.slices, volumes.shape[1], *self.size[1:])

    def _pool_slices(self, features: Float[Tensor, "n slices windows d"], axis: int) -> Float[Tensor, "n all d"]:
        """Windows of slices, averaged over the slices of each window along the axis."""
        along = window_weights(self.slices).to(features)
        windows = torch.einsum("ks,nswd->nkwd", along, features)
        windows = windows.unflatten(2, (WINDOWS_PER_SIDE, WINDOWS_PER_SIDE))
        # (n, across, in the plane, in the plane, d) → the axes of the volume in their order.
        return windows.movedim(1, 1 + axis).flatten(1, 3)


def build_slices(
    encoder: Encoder | str = "bundled", axes: Sequence[int] = (0, 1, 2), slices: int = 24, **options: Any
) -> SliceEncoder:
    """Encode volumes slice by slice with an encoder of images.

    Args:
        encoder: Of images: a name in the registry, or one that is already built.
        axes: Slicing axes: positions among the last three, 0 is the depth.
        slices: Slices per axis; a volume that has more is averaged over neighbouring ones.
        options: Of the encoder of images, where a name is given.

    Raises:
        EncoderError: As `build_encoder` and `SliceEncoder`.
    """
    return SliceEncoder(build_encoder(encoder, **options), axes, slices)


def _across(layer: str, axis: int) -> str:
    return f"{layer} across {AXES[axis]}"
