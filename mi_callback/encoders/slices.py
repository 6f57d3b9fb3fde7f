"""An encoder of volumes from one of images: each slice on its own, pooled along the slicing axis."""

import hashlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.encoders.pooling import Layer
from mi_callback.encoders.protocol import Card, Encoder
from mi_callback.encoders.registry import build_encoder
from mi_callback.errors import EncoderError
from mi_callback.images.windows import WINDOWS_PER_SIDE, window_weights
from mi_callback.types import LayerFeatures

AXES = ("depth", "height", "width")
AT_ONCE = 512
"""Slices encoded at a time; bounds the memory."""


class SliceEncoder(nn.Module):
    """Volumes `(n, channels, d, h, w)` → `{layer across axis: (n, d)}`: mean of the features of slices.

    The mean does not know where in the volume a slice lies; windows of the volume (`with_regions`) do, to half its
    sides, and registration in three dimensions follows.

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
        self.layers = {self._across(layer, axis): Layer("BC") for axis, layer in product(self.axes, encoder.layers)}

    def forward(self, volumes: Tensor) -> LayerFeatures:
        return {
            self._across(layer, axis): features.mean(dim=1)
            for axis in self.axes
            for layer, features in self._of_slices(volumes, axis, regional=False)[0].items()
        }

    def with_regions(self, volumes: Tensor) -> tuple[LayerFeatures, LayerFeatures]:
        """As `forward`, and the same of each window of `regions`: `{layer: (n, 27, d)}`."""
        whole, parts = LayerFeatures(), LayerFeatures()
        along = window_weights(self.slices)
        for axis in self.axes:
            of_slices, of_windows = self._of_slices(volumes, axis, regional=True)
            for layer, features in of_slices.items():
                whole[self._across(layer, axis)] = features.mean(dim=1)
            for layer, features in of_windows.items():
                windows = torch.einsum("ks,nswd->nkwd", along.to(features), features)
                windows = windows.unflatten(2, (WINDOWS_PER_SIDE, WINDOWS_PER_SIDE))
                # (n, across, in the plane, in the plane, d) → the axes of the volume in their order.
                parts[self._across(layer, axis)] = windows.movedim(1, 1 + axis).flatten(1, 3)
        return whole, parts

    def fingerprint(self) -> str:
        """Changes when any feature could."""
        spec = repr((self.name, self.encoder.fingerprint(), self.axes, self.slices))
        return hashlib.blake2b(spec.encode(), digest_size=16).hexdigest()

    @torch.no_grad()
    def _of_slices(self, volumes: Tensor, axis: int, regional: bool) -> tuple[LayerFeatures, LayerFeatures]:
        """Features of n volumes' slices across an axis, `{layer: (n, slices, d)}`, and of the windows of each slice."""
        n, side = len(volumes), self.size[0]
        # Slices before channels; as many as asked for.
        stacks = volumes.movedim(2 + axis, 1)
        slabs = stacks.flatten(2).transpose(1, 2)
        slabs = nn.functional.adaptive_avg_pool1d(slabs, self.slices).transpose(1, 2)
        images = slabs.reshape(n * self.slices, volumes.shape[1], side, side)
        with_regions: Any = getattr(self.encoder, "with_regions", None) if regional else None
        found = [with_regions(chunk) if with_regions else (self.encoder(chunk), {}) for chunk in images.split(AT_ONCE)]
        whole, parts = (
            {key: torch.cat([f[k][key] for f in found]).unflatten(0, (n, self.slices)) for key in found[0][k]}
            for k in (0, 1)
        )
        return whole, parts

    def _across(self, layer: str, axis: int) -> str:
        return f"{layer} across {AXES[axis]}"


def build_slices(
    encoder: Encoder | str = "bundled", axes: Sequence[int] = (0, 1, 2), slices: int = 24, **options: Any
) -> SliceEncoder:
    """Encode volumes slice by slice with an encoder of images, by name with its `options`, or as it is."""
    return SliceEncoder(build_encoder(encoder, **options), axes, slices)
