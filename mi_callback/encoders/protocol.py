"""What every encoder is: declared layers, declared input, pooled features out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mi_callback.encoders.pooling import Layer
from mi_callback.errors import EncoderError
from mi_callback.images.intensity import Intensity
from mi_callback.types import Images, LayerFeatures


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

    Optional: `card` (a `Card`), and `with_windows(images)` as `HookedEncoder` has it.

    Attributes:
        name: Shown in reports and stored with fitted state.
        layers: Name → layer, in the order in which features come.
        size: Height and width, or depth, height and width: as many as the images have spatial dimensions.
        channels: Input channels; single-channel images are repeated.
        intensity: Scaling of the grey values that it was trained with.
    """

    name: str
    layers: Mapping[str, Layer]
    size: tuple[int, ...]
    channels: int
    intensity: Intensity

    def __call__(self, images: Images) -> LayerFeatures: ...

    def fingerprint(self) -> str:
        """A hash that changes when any feature could."""
        ...


class RegionalFeatures(NamedTuple):
    """Features of whole images, and of each window of theirs where a layer has a map in space."""

    whole: LayerFeatures
    windows: dict[str, Float[Tensor, "n windows d"]]


def check_windows(encoder: Encoder) -> None:
    """Refuse an encoder that cannot look at windows.

    Raises:
        EncoderError: If it has no `with_windows`.
    """
    if not hasattr(encoder, "with_windows"):
        raise EncoderError(
            f"needed an encoder with with_windows(images) for windows=True; {encoder.name!r} has none. Leave windows "
            "out, or build the encoder with HookedEncoder."
        )
