"""Activations in their declared layout → one vector per image, or per window of it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import EncoderError
from mi_callback.images.windows import window_weights

Layout = Literal["BCHW", "BHWC", "BNC", "BC", "BCDHW", "BDHWC"]
"""B batch, C channels, N tokens, D depth, H height, W width. `[B, h, w, C]` and `[B, C, h, w]` look alike: declare."""

Pooling = Literal["mean", "gem", "mean_std", "cls"]

NDIM = {"BCHW": 4, "BHWC": 4, "BNC": 3, "BC": 2, "BCDHW": 5, "BDHWC": 5}


@dataclass(frozen=True)
class Layer:
    """One tapped layer. Its layout is declared, never guessed."""

    layout: Layout
    prefix_tokens: int = 0
    """CLS and register tokens in front of the patch tokens of a `BNC` layer."""


def pool(activation: Tensor, layer: Layer, pooling: Pooling, name: str = "layer") -> Tensor:
    """`(n, …)` in the declared layout → `(n, d)` float32, pooled over everything that is not a channel."""
    if activation.ndim != NDIM[layer.layout]:
        raise EncoderError(
            f"needed a {layer.layout} output of {name!r}; it has shape {tuple(activation.shape)}. Declare its layout."
        )
    activation = activation.float()
    if layer.layout == "BC":
        return activation
    if pooling == "cls":
        if layer.layout != "BNC" or layer.prefix_tokens < 1:
            raise EncoderError(f"needed a BNC layer with a CLS token for pooling 'cls'; {name!r} is {layer}.")
        return activation[:, 0]
    places = _places(activation, layer)
    if places.shape[2] == 0:
        raise EncoderError(
            f"needed patch tokens behind the {layer.prefix_tokens} prefix tokens of {name!r}; it returns "
            f"{activation.shape[1]} tokens in all."
        )
    return _average(places, places.new_full((1, places.shape[2]), 1 / places.shape[2]), pooling)[:, 0]


def pool_windows(activation: Tensor, layer: Layer, pooling: Pooling, shape: tuple[int, ...]) -> Tensor:
    """The output of a layer with a map of `shape`, pooled over each window of `regions`: `(n, windows, d)` float32."""
    places = _places(activation.float(), layer)
    return _average(places, window_weights(*shape).to(places), pooling)


def map_shape(activation: Tensor, layer: Layer, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape of a layer's map in space; None where it has none, or not that of an input of `size`."""
    match layer.layout:
        case "BCHW" | "BCDHW":
            shape = tuple(activation.shape[2:])
        case "BHWC" | "BDHWC":
            shape = tuple(activation.shape[1:-1])
        case "BNC":  # tokens row by row, as many to a side as the proportions of the input say
            tokens, places = activation.shape[1] - layer.prefix_tokens, torch.Size(size).numel()
            shape = tuple(max(1, round(side * (tokens / places) ** (1 / len(size)))) for side in size)
            return shape if torch.Size(shape).numel() == tokens else None
        case _:
            return None
    return shape if len(shape) == len(size) else None


def _places(activation: Tensor, layer: Layer) -> Tensor:
    """Channels, then everything that is not one: `(n, d, places)`."""
    match layer.layout:
        case "BNC":
            return activation[:, layer.prefix_tokens :].transpose(1, 2)
        case "BHWC" | "BDHWC":
            return activation.flatten(1, -2).transpose(1, 2)
        case _:
            return activation.flatten(2)


def _average(places: Tensor, weights: Tensor, pooling: Pooling) -> Tensor:
    """Pool `(n, d, places)` under each row of `weights` `(k, places)`: `(n, k, d)`."""

    def mean(values: Tensor) -> Tensor:
        return (values @ weights.T).transpose(1, 2)

    match pooling:
        case "mean":
            return mean(places)
        case "gem":
            return generalised_mean(places, weights=weights).transpose(1, 2)
        case "mean_std":
            average = mean(places)
            return torch.cat([average, (mean(places.square()) - average.square()).clamp_min(0).sqrt()], dim=2)
        case _:
            raise EncoderError(f"needed pooling mean, gem, mean_std or cls; {pooling!r} came.")


def generalised_mean(places: Tensor, p: float = 3.0, epsilon: float = 1e-6, weights: Tensor | None = None) -> Tensor:
    """GeM over the last axis (Radenović et al. 2019): between the mean (p = 1) and the maximum (p → ∞).

    With `weights` `(k, places)`, whose rows sum to 1, one such mean for each row: `(…, places)` → `(…, k)`.
    """
    powers = places.clamp_min(epsilon).pow(p)
    return (powers.mean(dim=-1) if weights is None else powers @ weights.T).pow(1 / p)
