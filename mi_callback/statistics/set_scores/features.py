"""Sets of features, checked; what several set-level scores share."""

import math

import torch
from torch import Tensor

from mi_callback.errors import DataError

BLOCK = 2**24
"""Entries of a distance or kernel matrix that are held at a time."""


def checked(minimum: int = 2, **sets: Tensor) -> list[Tensor]:
    """The sets in float64 on one device, each of the shape `(≥ minimum, d)` with the same d, and finite."""
    first = next(iter(sets.values()))
    for name, features in sets.items():
        if features.ndim != 2:
            raise DataError(
                f"needed {name} features of shape (n, d), one row an image; {tuple(features.shape)} came. Concatenate "
                "the layers along the last dimension."
            )
        if len(features) < minimum:
            raise DataError(
                f"needed at least {minimum} {name} image{'s' * (minimum > 1)} for a set score; {len(features)} came."
            )
        if features.shape[1] != first.shape[1] or not features.shape[1]:
            raise DataError(
                f"needed the same features of all sets; {name} has {features.shape[1]} a row, the first set "
                f"{first.shape[1]}. Use one encoder and one whitening."
            )
        if not features.isfinite().all():
            raise DataError(f"needed finite {name} features; NaN or infinity came.")
    return [features.detach().to(first.device, torch.float64) for features in sets.values()]


def nearest(queries: Tensor, reference: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each query to its nearest reference row, and that row, both `(n,)`, in bounded memory.

    Args:
        queries: `(n, d)`.
        reference: `(m, d)`.
        but: One row of the reference per query that does not count, `(n,)`: the query itself.
    """
    half = reference.square().sum(dim=1) / 2
    rows = []
    for start in range(0, len(queries), block := rows_of_block(len(reference))):
        closeness = queries[start : start + block] @ reference.T - half
        if but is not None:
            closeness.scatter_(1, but[start : start + block, None], -math.inf)
        rows.append(closeness.argmax(dim=1))
    row = torch.cat(rows)
    # By subtraction: |q|² + |r|² − 2 q·r has lost its digits where they matter, at the distance of a copy.
    return torch.linalg.vector_norm(queries - reference[row], dim=1), row


def unit_rows(features: Tensor) -> Tensor:
    """Rows of unit length; a row of zeros stays one."""
    return torch.nn.functional.normalize(features, dim=1, eps=1e-12)


def rows_of_block(columns: int) -> int:
    return max(1, BLOCK // columns)
