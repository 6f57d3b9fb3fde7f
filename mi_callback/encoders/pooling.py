"""Activations in their declared layout → one vector per image, or per window of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.errors import EncoderError, choice
from mi_callback.images.windows import window_weights
from mi_callback.types import Kind


class Layout(Kind):
    """The axes of an activation: B batch, C channels, N tokens, D depth, H height, W width.

    `[B, h, w, C]` and `[B, C, h, w]` look alike: a layout is declared, never guessed.
    """

    BCHW = "BCHW"
    BHWC = "BHWC"
    BNC = "BNC"
    BC = "BC"
    BCDHW = "BCDHW"
    BDHWC = "BDHWC"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self)


class Pooling(Kind):
    """How the places of an activation become one vector.

    `mean`; `gem`, the generalised mean with p = 3 of the positive part; `mean_std`, the mean and the standard
    deviation, twice as long; `cls`, the first token.
    """

    MEAN = "mean"
    GEM = "gem"
    MEAN_STD = "mean_std"
    CLS = "cls"


@dataclass(frozen=True)
class Layer:
    """One tapped layer.

    Attributes:
        layout: A `Layout`, or its name.
        prefix_tokens: CLS and register tokens in front of the patch tokens of a `BNC` layer.

    Raises:
        EncoderError: If there is no such layout.
    """

    layout: Layout | str
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", choice("a layout", self.layout, Layout, EncoderError))


def pool(activation: Tensor, layer: Layer, pooling: Pooling | str, name: str = "layer") -> Float[Tensor, "n d"]:
    """An activation pooled over everything that is not a channel.

    Args:
        activation: In the layout of the layer, of any floating point type.
        layer: What the activation is declared to be.
        pooling: A `Pooling`, or its name; activations `BC` are what they are, whatever it is.
        name: Of the layer, for messages.

    Returns:
        One float32 vector for each image.

    Raises:
        EncoderError: If the activation is not of the declared layout, has no places, or cannot be pooled that way.
    """
    layout = Layout(layer.layout)
    if activation.ndim != layout.ndim:
        raise EncoderError(
            f"needed a {layout} output of {name!r}; it has shape {tuple(activation.shape)}. Declare its layout."
        )
    activation = activation.float()
    if layout is Layout.BC:
        return activation
    if pooling == Pooling.CLS:
        if layout is not Layout.BNC or layer.prefix_tokens < 1:
            raise EncoderError(f"needed a BNC layer with a CLS token for pooling 'cls'; {name!r} is {layer}.")
        return activation[:, 0]
    places = _places(activation, layer)
    if places.shape[2] == 0:
        raise EncoderError(
            f"needed patch tokens behind the {layer.prefix_tokens} prefix tokens of {name!r}; it returns "
            f"{activation.shape[1]} tokens in all."
        )
    return _average(places, places.new_full((1, places.shape[2]), 1 / places.shape[2]), pooling)[:, 0]


def pool_windows(
    activation: Tensor, layer: Layer, pooling: Pooling | str, shape: tuple[int, ...]
) -> Float[Tensor, "n windows d"]:
    """The output of a layer with a map of `shape`, pooled over each window of `images.windows`."""
    places = _places(activation.float(), layer)
    return _average(places, window_weights(*shape).to(places), pooling)


def map_shape(activation: Tensor, layer: Layer, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape of a layer's map in space; None where it has none, or not that of an input of `size`."""
    match layer.layout:
        case Layout.BCHW | Layout.BCDHW:
            shape = tuple(activation.shape[2:])
        case Layout.BHWC | Layout.BDHWC:
            shape = tuple(activation.shape[1:-1])
        case Layout.BNC:  # tokens row by row, as many to a side as the proportions of the input say
            tokens, places = activation.shape[1] - layer.prefix_tokens, torch.Size(size).numel()
            shape = tuple(max(1, round(side * (tokens / places) ** (1 / len(size)))) for side in size)
            return shape if torch.Size(shape).numel() == tokens else None
        case _:
            return None
    return shape if len(shape) == len(size) else None


def generalised_mean(
    places: Float[Tensor, "*any places"],
    p: float = 3.0,
    epsilon: float = 1e-6,
    weights: Float[Tensor, "k places"] | None = None,
) -> Float[Tensor, "..."]:
    """GeM over the last axis, (Σ w max(x, ε)^p)^(1/p): between the mean (p = 1) and the maximum (p → ∞).

    Args:
        places: What is averaged; values below `epsilon` count as that.
        p: Exponent.
        epsilon: Least value.
        weights: Rows that sum to 1: one mean for each, `(…, k)`. All places alike when None, `(…)`.

    References:
        Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", IEEE TPAMI 2019.
    """
    powers = places.clamp_min(epsilon).pow(p)
    return (powers.mean(dim=-1) if weights is None else powers @ weights.T).pow(1 / p)


def _places(activation: Tensor, layer: Layer) -> Float[Tensor, "n d places"]:
    """Channels, then everything that is not one."""
    match layer.layout:
        case Layout.BNC:
            return activation[:, layer.prefix_tokens :].transpose(1, 2)
        case Layout.BHWC | Layout.BDHWC:
            return activation.flatten(1, -2).transpose(1, 2)
        case _:
            return activation.flatten(2)


def _average(
    places: Float[Tensor, "n d places"], weights: Float[Tensor, "k places"], pooling: Pooling | str
) -> Float[Tensor, "n k d"]:
    """Pool the places under each row of weights."""

    def mean(values: Tensor) -> Tensor:
        return (values @ weights.T).transpose(1, 2)

    match choice("pooling", pooling, Pooling, EncoderError):
        case Pooling.GEM:
            return generalised_mean(places, weights=weights).transpose(1, 2)
        case Pooling.MEAN_STD:
            average = mean(places)
            return torch.cat([average, (mean(places.square()) - average.square()).clamp_min(0).sqrt()], dim=2)
        case _:
            return mean(places)
