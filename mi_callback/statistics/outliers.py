"""Real images that resemble the training set as only a copy, or the same patient under another id, would."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_callback.statistics.subjects import images_of_same_subjects
from mi_callback.types import Similarity, Subjects

COPY = 0.9
"""Similarity from which a real image can be a copy of another."""

OUTLYING = 6.0
"""Robust standard deviations above the median of a null, on Fisher's scale, at which an image is no part of it."""

FEWEST = 10
"""Images in a null from which outliers can be told."""


class Suspects(NamedTuple):
    """People of a null who seem to be trained on.

    Attributes:
        images: All of their images among those of the null.
        people: Their number; that of images where subjects are unknown.
    """

    images: Bool[Tensor, " m"]
    people: int


def robust_std(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    r"""Standard deviation from the median absolute deviation, as of a normal distribution.

    .. math:: \hat\sigma = 1.4826 \, \mathrm{median}_i \left| x_i - \mathrm{median}_j \, x_j \right|

    Of an even number of values the lower of the two middle ones is the median.

    References:
        Hampel, "The influence curve and its role in robust estimation", J. Am. Statist. Assoc. 1974.

    Example:
        >>> round(float(robust_std(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]))), 4)
        1.4826
    """
    return 1.4826 * (values - values.median()).abs().median()


def like_copies(similarity: Similarity, null: Float[Tensor, " m"]) -> Bool[Tensor, " n"]:
    r"""Which images resemble the training set as only a copy, or the same patient, would.

    They lie at `COPY` or above, *and* more than `OUTLYING` robust standard deviations above the median of the null on
    Fisher's scale :math:`z = \mathrm{artanh} \, s`: in a set where all people look alike nothing is taken for a copy.
    An extrapolation: it can forbid to say clean, and never makes anything memorized.

    Args:
        similarity: Best match of each image, in [−1, 1]; larger is closer.
        null: The same for real images that were not trained on.

    Returns:
        bool; all False where the null has fewer than `FEWEST` images.

    Example:
        >>> null = torch.linspace(0.5, 0.7, 21)
        >>> like_copies(torch.tensor([0.6, 0.89, 0.99]), null).tolist()
        [False, False, True]
    """
    if len(null) < FEWEST:
        return torch.zeros(len(similarity), dtype=torch.bool)
    z, others = (values.to(torch.float64).clamp(-1 + 1e-9, 1 - 1e-9).atanh() for values in (similarity, null))
    return (similarity >= COPY) & (z > others.median() + OUTLYING * robust_std(others))


def copies_in_null(similarity: Float[Tensor, " m"]) -> Bool[Tensor, " m"]:
    """Which images of a null are `like_copies` against the others.

    Example:
        >>> copies_in_null(torch.cat([torch.linspace(0.5, 0.7, 21), torch.tensor([0.99])])).nonzero().tolist()
        [[21]]
    """
    return like_copies(similarity, similarity)


def suspects(similarity: Float[Tensor, " m"], subjects: Subjects | None) -> Suspects:
    """Find people of a null who seem to be trained on: one image of theirs is `copies_in_null`.

    Args:
        similarity: Best match of each image of the null; larger is closer.
        subjects: Subject of each, or None: then every image is its own person.

    Example:
        >>> similarity = torch.cat([torch.linspace(0.5, 0.7, 21), torch.tensor([0.99])])
        >>> found = suspects(similarity, ["s0", *map(str, range(20)), "s0"])
        >>> found.images.nonzero().flatten().tolist(), found.people
        ([0, 21], 1)
    """
    found = copies_in_null(similarity).nonzero().flatten().tolist()
    images = images_of_same_subjects(found, subjects, len(similarity))
    return Suspects(images, len(found) if subjects is None else len({subjects[i] for i in found}))


def few_enough(people: int, total: int) -> bool:
    """Whether so many suspects may be left out of a null: one, or one in a hundred.

    If they were no leak but people who happen to look alike, leaving them out would flag others like them: with each
    one left out the rate of false flags rises by up to 1 / (G + 1).

    Args:
        people: Number of suspects.
        total: Number of people in the null.

    Example:
        >>> few_enough(1, 20), few_enough(2, 150), few_enough(2, 200)
        (True, False, True)
    """
    return people <= max(1, total // 100)
