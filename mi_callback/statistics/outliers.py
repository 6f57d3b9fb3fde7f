"""Images that resemble the training set as only a copy, or the same patient under another id, would."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mi_callback.statistics.subjects import images_of_same_subjects

COPY = 0.9
"""Similarity from which a real image can be a copy of another."""

OUTLYING = 6.0
"""Robust standard deviations above the median of a null, on Fisher's scale, at which an image is no part of it."""

FEWEST = 10
"""Images in a null from which outliers can be told."""


def robust_std(values: Tensor) -> Tensor:
    """Standard deviation from the median absolute deviation, as of a normal distribution."""
    return 1.4826 * (values - values.median()).abs().median()


def like_copies(similarity: Tensor, null: Tensor) -> Tensor:
    """Images that resemble the training set as only a copy, or the same patient, would, bool `(n,)`.

    They lie at `COPY` or above *and* more than `OUTLYING` robust standard deviations above the median of the null: in
    a set where all people look alike nothing is taken for a copy. An extrapolation: it can forbid to say clean, and
    never makes anything memorized.
    """
    if len(null) < FEWEST:
        return torch.zeros(len(similarity), dtype=torch.bool)
    z, others = (values.to(torch.float64).clamp(-1 + 1e-9, 1 - 1e-9).atanh() for values in (similarity, null))
    return (similarity >= COPY) & (z > others.median() + OUTLYING * robust_std(others))


def copies_in_null(similarity: Tensor) -> Tensor:
    """Images of a null that are `like_copies` against the others, bool `(m,)`."""
    return like_copies(similarity, similarity)


def suspects(similarity: Tensor, subjects: Sequence[str] | None) -> tuple[Tensor, int]:
    """Which images of a null are of people who seem to be trained on, bool `(m,)`, and how many people that is."""
    found = copies_in_null(similarity).nonzero().flatten().tolist()
    who = images_of_same_subjects(found, subjects, len(similarity))
    return who, len(found) if subjects is None else len({subjects[i] for i in found})


def few_enough(people: int, total: int) -> bool:
    """Whether so many suspects may be left out of a null: one, or one in a hundred.

    If they were no leak but people who happen to look alike, leaving them out would flag others like them: with each
    one left out the rate of false flags rises by up to 1 / (G + 1).
    """
    return people <= max(1, total // 100)
