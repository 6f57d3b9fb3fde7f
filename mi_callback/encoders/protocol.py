"""What every encoder is: declared layers, declared input, pooled features out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from mi_callback.encoders.pooling import Layer
from mi_callback.images.intensity import Intensity
from mi_callback.types import LayerFeatures


@dataclass(frozen=True)
class Card:
    """What users must know before they use an encoder's weights.

    Attributes:
        licence: SPDX name, or what the authors say. Of the weights, not of this package.
        citation: Where the encoder was published.
        source: Where its weights come from.
        modality: What it was trained on.
        restricted: Whether the licence excludes some uses (commercial ones, say) or asks for an agreement first.
    """

    licence: str = "not stated"
    citation: str = "not stated"
    source: str = "the user's own"
    modality: str = "not stated"
    restricted: bool = False


@runtime_checkable
class Encoder(Protocol):
    """Preprocessed images `(n, channels, *size)` → `{layer: (n, d)}`. Any `torch.nn.Module` with these works.

    Optional: `card` (a `Card`), and `with_regions(images)` as `HookedEncoder` has it.
    """

    name: str
    layers: Mapping[str, Layer]
    size: tuple[int, ...]
    """Height and width, or depth, height and width: as many as the images have spatial dimensions."""
    channels: int
    intensity: Intensity

    def __call__(self, images: Tensor) -> LayerFeatures: ...

    def fingerprint(self) -> str: ...
