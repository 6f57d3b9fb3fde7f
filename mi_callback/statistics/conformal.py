"""p-values without a model: how often is a real image that was not trained on at least as similar?"""

import math
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.subjects import subject_weights
from mi_callback.types import Similarity, Subjects

ROUNDING = 1e-12
"""Slack of comparisons and of whole numbers, so that p = α survives the rounding of sums of 1 / n_g."""

TIE = 1e-6
"""Similarities that differ by less are equal: single precision does not tell them apart."""


@overload
def at_most(value: Tensor, level: float | Tensor) -> Tensor: ...


@overload
def at_most(value: float, level: float) -> bool: ...


def at_most(value: Any, level: Any) -> Any:
    """Whether value ≤ level up to `ROUNDING`: the one rule by which p-values are compared with a level.

    Args:
        value: A p-value, or a tensor of them.
        level: A level, or one for each.

    Returns:
        bool, or a tensor of them.

    Example:
        >>> at_most(0.1 + 0.2, 0.3), 0.1 + 0.2 <= 0.3
        (True, False)
    """
    return value <= level + ROUNDING


def round_down(value: float) -> int:
    """⌊value⌋, where a whole number that rounding has moved down by up to `ROUNDING` is that number.

    Example:
        >>> round_down(0.29 * 100), math.floor(0.29 * 100)
        (29, 28)
    """
    return math.floor(value + ROUNDING)


def round_up(value: float) -> int:
    """⌈value⌉, where a whole number that rounding has moved up by up to `ROUNDING` is that number.

    Example:
        >>> round_up(0.07 * 100), math.ceil(0.07 * 100)
        (7, 8)
    """
    return math.ceil(value - ROUNDING)


def conformal_p_values(
    similarity: Similarity,
    null: Float[Tensor, " m"],
    subjects: Subjects | None = None,
    offset: int = 1,
    correction: float = 1.0,
) -> Float[Tensor, " n"]:
    r"""How often a novel real image is at least this similar to the training set.

    With G held-out subjects, of whom subject g has :math:`n_g` images of similarity :math:`s_{gj}`,

    .. math:: p(s) = \frac{k + c \sum_{g=1}^{G} \frac{1}{n_g} \sum_{j=1}^{n_g} 1\{s_{gj} \geq s\}}{G + 1}

    with the offset k and the correction c. The images of one subject are one unit of evidence: p is that of a random
    image of a random subject. Without subjects G is the number of images. Similarities within `TIE` of each other are
    equal.

    The offset is 1 for images that are no part of the reference. It is 2 where training subjects are compared with
    each other: among G + 1 exchangeable subjects the closest pair is as close to each other as anyone is to anyone, so
    a novel one belongs to it with probability 2 / (G + 1); without itself in the reference, its partner looks far.

    The correction is the number of training subjects that a generated image is compared with, over the number that
    a null image was: with a subject more in the reference, the probability to exceed a similarity grows by less than
    the average of those before, so c bounds what a smaller reference hides.

    Args:
        similarity: Best match of each generated image; larger is closer.
        null: The same for held-out real images searched in the *same* index.
            A subject shared with the training set inflates it and hides copies.
        subjects: Subject of each null image, length m.
        offset: k, 1, or 2 for a null of training subjects against each other.
        correction: c, at least 1.

    Returns:
        p-values in `[offset / (G + 1), 1]`, float64; small means memorized.

    Raises:
        CalibrationError: If `null` is empty, either input is not finite, or `subjects` do not match `null`.

    References:
        Bates et al., "Testing for outliers with conformal p-values", Ann. Statist. 2023;
        Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023 (subjects).

    Example:
        >>> conformal_p_values(torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.3, 0.4])).tolist()
        [0.25, 1.0]
    """
    _check(similarity, null, subjects)
    weights = subject_weights(subjects, len(null)).to(null.device)
    null, order = null.to(torch.float64).sort()
    # exceed[i] = weight of the null images at rank i or above; one more entry for "none".
    exceed = torch.cat([weights[order].flip(0).cumsum(0).flip(0), weights.new_zeros(1)])
    rank = torch.searchsorted(null, similarity.to(torch.float64).contiguous() - TIE, side="left")
    return ((offset + correction * exceed[rank]) / (1 + weights.sum())).clamp(max=1)


def _check(similarity: Tensor, null: Tensor, subjects: Subjects | None) -> None:
    if len(null) == 0:
        raise CalibrationError("needed at least one null image for p-values; none came.")
    if not (null.isfinite().all() and similarity.isfinite().all()):
        raise CalibrationError("needed finite similarities for p-values; NaN or infinity came.")
    if subjects is not None and len(subjects) != len(null):
        raise CalibrationError(f"needed one subject per null image ({len(null)}); {len(subjects)} came.")
