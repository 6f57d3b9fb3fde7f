"""Similarity on a scale that is the same for every data set: the Memorization Index and the Overfit/Novelty Index."""

from enum import StrEnum

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError, choice
from mi_callback.statistics.null import Null
from mi_callback.types import Similarity


class OniScale(StrEnum):
    """Range of the Overfit/Novelty Index. Members are strings.

    Attributes:
        UNIT: 0 for a novel image, 1 for one that is identical to a training image.
        PAPER: −1 for a memorized image, +1 for a novel one (Deo et al. 2026, eq. 6).
    """

    UNIT = "unit"
    PAPER = "paper"


def memorization_index(similarity: Similarity, null: Null) -> Tensor:
    """MI = (s − μ₀) / σ₀, `(n,)` float64: about 0 for a novel image, large for a copy (Deo et al. 2026)."""
    return (similarity.to(torch.float64) - null.mean) / null.std


def overfit_novelty_index(mi: Tensor, scale: OniScale | str = OniScale.UNIT) -> Tensor:
    """ONI of MI `(n,)`. `unit`: max(0, tanh MI), 0 novel, 1 identical; `paper`: −tanh MI, −1 memorized, +1 novel.

    Raises:
        CalibrationError: If the scale is unknown.
    """
    if choice("oni_scale", scale, OniScale, CalibrationError) is OniScale.PAPER:
        return -mi.tanh()
    return mi.tanh().clamp_min(0)
