"""MiFID: an FID that holds nearness to the training set against a generator (Bai et al. 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.statistics.set_scores.features import check_features, rows_of_block, unit_rows
from mi_callback.statistics.set_scores.fid import fid

COSINE_EPSILON = 0.1
"""Mean cosine distance from which on MiFID sees no memorization (Bai et al., and torchmetrics)."""

COSINE_FLOOR = 1e-6
"""Smallest cosine distance that MiFID divides by: what is smaller is the rounding of float32 features."""


def mifid(train: Float[Tensor, "n d"], generated: Float[Tensor, "m d"]) -> float:
    r"""Memorization-informed FID: `fid`, divided by `memorization_penalty`.

    .. math:: \mathrm{MiFID} = \frac{\mathrm{FID}}{\mathrm{penalty}}

    Args:
        train: Features of training images, n ≥ 2.
        generated: Features of generated images, m ≥ 2.

    Returns:
        Equal to `fid` unless the generated images are on average within a cosine distance of 0.1 of training images,
        then larger by up to 10⁶. A generator that replays the *whole* training set still scores 0, because its
        FID is 0.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    References:
        Bai, Lin, Raffel and Kan, "On training sample memorization: lessons from benchmarking generative modeling with a
        large-scale competition", KDD 2021.

    Example:
        >>> train, novel = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
        >>> mifid(train, novel) == fid(train, novel), mifid(train, train[:20]) > 1000 * fid(train, train[:20])
        (True, True)
    """
    return fid(train, generated) / memorization_penalty(train, generated)


def memorization_penalty(
    train: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], epsilon: float = COSINE_EPSILON
) -> float:
    r"""What MiFID divides by: the mean cosine distance of a generated image to its nearest training image, or 1.

    .. math:: D = \frac{1}{m} \sum_j \left( 1 - \max_i \cos(x_j, t_i) \right)

    Args:
        train: Features t of training images.
        generated: Features x of generated images.
        epsilon: A mean distance of this or more counts as 1.

    Returns:
        D, in [1e-6, epsilon), or 1 where nothing looks memorized.

    Raises:
        DataError: For no row, values that are not finite, or features of different width.

    References:
        Bai et al., KDD 2021.

    Example:
        >>> train = torch.eye(4)
        >>> memorization_penalty(train, train[:2]), memorization_penalty(train, torch.ones(1, 4))
        (1e-06, 1.0)
    """
    # torchmetrics' class takes the mean over the training images of the distance to their nearest generated image: few
    # samples, all of them copies, pass. The competition's own code, and this, take it over the generated images. Both
    # others take |cos|, the same where features are positive; whitened features have signs, and −t is no copy of t.
    train, generated = check_features(1, train=train, generated=generated)
    unit = unit_rows(train)
    parts = unit_rows(generated).split(rows_of_block(len(train)))
    distance = 1 - float(torch.cat([(part @ unit.T).amax(dim=1) for part in parts]).mean())
    return max(distance, COSINE_FLOOR) if distance < epsilon else 1.0
