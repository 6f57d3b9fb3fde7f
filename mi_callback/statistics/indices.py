"""Similarity on a scale that is the same for every data set: the Memorization Index and the Overfit/Novelty Index."""

from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.errors import CalibrationError, choice
from mi_callback.statistics.null import Null
from mi_callback.types import Similarity


class OniScale(StrEnum):
    """Range of the Overfit/Novelty Index. Members are strings, `"unit"` for example.

    Attributes:
        UNIT: 0 for a novel image, 1 for one that is identical to a training image.
        PAPER: −1 for a memorized image, +1 for a novel one (Deo et al. 2026, eq. 6).
    """

    UNIT = "unit"
    PAPER = "paper"


def memorization_index(similarity: Similarity, null: Null) -> Float[Tensor, " n"]:
    r"""How many standard deviations of the null an image is more similar to the training set than novel ones are.

    .. math:: \mathrm{MI}(s) = \frac{s - \mu_0}{\sigma_0}

    Args:
        similarity: Best match of each generated image; larger is closer.
        null: Of similarities of the same kind; :math:`\mu_0` and :math:`\sigma_0` are its mean and standard deviation.

    Returns:
        MI, float64: about 0 for a novel image, large for a copy.

    References:
        Deo et al., "A Calibrated Memorization Index (MI) for Detecting Training Data Leakage in Generative MRI
        Models", arXiv 2602.13066, 2026.

    Example:
        >>> null = Null(torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64), None, "held_out")
        >>> memorization_index(torch.tensor([0.3, 0.9], dtype=torch.float64), null).round(decimals=2).tolist()
        [0.0, 7.35]
    """
    return (similarity.to(torch.float64) - null.mean) / null.std


def overfit_novelty_index(mi: Float[Tensor, " n"], scale: OniScale | str = OniScale.UNIT) -> Float[Tensor, " n"]:
    r"""The Memorization Index in bounds.

    .. math:: \mathrm{ONI}_{\mathrm{unit}} = \max(0, \tanh \mathrm{MI}), \quad
              \mathrm{ONI}_{\mathrm{paper}} = -\tanh \mathrm{MI}

    Args:
        mi: Memorization Index.
        scale: `unit`: 0 is novel, 1 identical to a training image. `paper`: −1 is memorized, +1 novel.

    Returns:
        ONI, in [0, 1] or [−1, 1].

    Raises:
        CalibrationError: If the scale is unknown.

    References:
        Deo et al., arXiv 2602.13066, 2026, eq. 6 (the paper's scale).

    Example:
        >>> overfit_novelty_index(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)).round(decimals=2).tolist()
        [0.0, 0.0, 0.76]
    """
    if choice("oni_scale", scale, OniScale, CalibrationError) is OniScale.PAPER:
        return -mi.tanh()
    return mi.tanh().clamp_min(0)
