"""Sets of features: checked, searched and normalised, as several set-level scores need them."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_callback.errors import DataError

BLOCK = 2**24
"""Entries of a distance or kernel matrix that are held at a time."""


class Nearest(NamedTuple):
    """The nearest reference of each query: how far it is, and its row."""

    distance: Float[Tensor, " n"]
    row: Int[Tensor, " n"]


def check_features(minimum: int = 2, **sets: Float[Tensor, "n d"]) -> list[Float[Tensor, "n d"]]:
    """Refuse sets of features that cannot be compared.

    Args:
        minimum: Rows of each set at least.
        sets: Features by the name of the set.

    Returns:
        The sets in float64, detached, on the device of the first.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    Example:
        >>> [len(features) for features in check_features(train=torch.rand(3, 2), generated=torch.rand(2, 2))]
        [3, 2]
    """
    width = next(iter(sets.values())).shape[-1]
    for name, features in sets.items():
        _check(name, features, minimum, width)
    device = next(iter(sets.values())).device
    return [features.detach().to(device, torch.float64) for features in sets.values()]


def _check(name: str, features: Tensor, minimum: int, width: int) -> None:
    if features.ndim != 2:
        raise DataError(
            f"needed {name} features of shape (n, d), one row an image; {tuple(features.shape)} came. Concatenate "
            "the layers along the last dimension."
        )
    if len(features) < minimum:
        raise DataError(
            f"needed at least {minimum} {name} image{'s' * (minimum > 1)} for a set score; {len(features)} came."
        )
    if features.shape[1] != width or not width:
        raise DataError(
            f"needed the same features of all sets; {name} has {features.shape[1]} a row, the first set "
            f"{width}. Use one encoder and one whitening."
        )
    if not features.isfinite().all():
        raise DataError(f"needed finite {name} features; NaN or infinity came.")


def nearest(
    queries: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], but: Int[Tensor, " n"] | None = None
) -> Nearest:
    r"""Find the nearest reference row of each query, in bounded memory.

    .. math:: i(q) = \arg\min_i \| q - r_i \|

    Args:
        queries: One row a query.
        reference: One row each.
        but: One row of the reference per query that does not count: the query itself.

    Returns:
        Euclidean distances, and the rows.

    Example:
        >>> nearest(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [6.0]])).distance.tolist()
        [1.0, 2.0]
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
    return Nearest(torch.linalg.vector_norm(queries - reference[row], dim=1), row)


def unit_rows(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Scale each row to unit length; a row of zeros stays one.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)).round(decimals=1).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    return torch.nn.functional.normalize(features, dim=1, eps=1e-12)


def rows_of_block(columns: int) -> int:
    """How many rows of a matrix with so many columns are held at a time: `BLOCK` entries.

    Example:
        >>> rows_of_block(2**20), rows_of_block(2**30)
        (16, 1)
    """
    return max(1, BLOCK // columns)
