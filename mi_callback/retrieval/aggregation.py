"""Similarities of several layers → one."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import EncoderError

Aggregation = Literal["geometric", "mean", "minimum"] | Mapping[str, float]

EPSILON = 1e-6
"""Lower bound of a similarity inside the geometric mean, whose logarithm a negative cosine has not."""


def aggregate(similarity: Tensor, aggregation: Aggregation, layers: Sequence[str]) -> Tensor:
    """Combine per-layer similarities `(…, layers)` into `(…)`, float64; larger is closer.

    Args:
        similarity: Cosines in [-1, 1], one column per layer.
        aggregation: `geometric` (of max(s, 0) + 1e-6; Deo et al. 2026), `mean`, `minimum`, or weights by layer name
            (a weighted mean).
        layers: Layer names in column order.

    Raises:
        EncoderError: If the aggregation is unknown or weighs a layer that is not there.
    """
    similarity = similarity.to(torch.float64)
    match aggregation:
        case "geometric":
            return (similarity.clamp_min(0) + EPSILON).log().mean(dim=-1).exp()
        case "mean":
            return similarity.mean(dim=-1)
        case "minimum":
            return similarity.amin(dim=-1)
        case Mapping():
            unknown = set(aggregation) - set(layers)
            weights = similarity.new_tensor([float(aggregation.get(layer, 0.0)) for layer in layers])
            if unknown or not weights.isfinite().all() or (weights < 0).any() or weights.sum() <= 0:
                raise EncoderError(
                    f"needed non-negative weights, one positive, for layers out of {list(layers)}; "
                    f"{dict(aggregation)} came."
                )
            return similarity @ (weights / weights.sum())
        case _:
            raise EncoderError(
                f"needed aggregation geometric, mean, minimum or a mapping of layer weights; {aggregation!r} came."
            )
