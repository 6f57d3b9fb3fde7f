"""The same image or the same patient where they must not be: on both sides, or under two ids.

A training patient among the held-out ones makes copies look normal. Who is there by id, or with an identical image, is
left out of the null. Who merely looks like a copy may be an honest look-alike: a few are left out, more are kept, and
then nothing reads as clean. All is said, by position: ids are not put into messages, a logger may carry them away.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.images.poses import POSES, orbit
from mi_callback.retrieval.features import Features
from mi_callback.statistics.null import robust_std

COPY = 0.9
"""Similarity from which a real image can be a copy of another."""

OUTLYING = 6.0
"""Robust standard deviations above the median of a null, on Fisher's scale, at which an image is no part of it."""

ROUNDED = 0.01
"""Difference of the mean grey levels, of 255, of two thumbnails of one image at most."""

FEWEST = 10
"""Images in a null from which outliers can be told."""


def without_leaks(train: Features, held_out: Features) -> Features:
    """Held-out images of people who, by id or by an identical image (flipped or not), are not in the training set.

    A person is left out with all images.

    Raises:
        DataError: If fewer than two images are left.
    """
    known = set(train.subjects or ())
    by_id = [i for i, subject in enumerate(held_out.subjects or ()) if subject in known]
    by_image = _also_in(train, held_out)
    found = sorted({*by_id, *by_image})
    if not found:
        return held_out
    kept = ~_of_same_subjects(found, held_out.subjects, len(held_out))
    what = (
        f"{len(by_image)} of {len(held_out)} held-out images are in the training set too, and "
        f"{len({held_out.subjects[i] for i in by_id} if held_out.subjects else ())} held-out subjects were trained on, "
        f"e.g. that of held-out image {found[0]}"
    )
    if int(kept.sum()) < 2:
        raise DataError(
            f"needed held-out images that were not trained on, of other subjects; {what}; nothing is left. Split by "
            "subject (mi_callback.images.files.split_by_subject), or calibrate without: null='cross_fit'."
        )
    warnings.warn(f"{what}. These people are left out: {int(kept.sum())} held-out images remain.", stacklevel=2)
    return held_out.where(kept)


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
    who = _of_same_subjects(found, subjects, len(similarity))
    return who, len(found) if subjects is None else len({subjects[i] for i in found})


def few_enough(people: int, total: int) -> bool:
    """Whether so many suspects may be left out of a null: one, or one in a hundred.

    If they were no leak but people who happen to look alike, leaving them out would flag others like them: with each
    one left out the rate of false flags rises by up to 1 / (G + 1).
    """
    return people <= max(1, total // 100)


def merge(subjects: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A subject per image, where linked subjects, chains included, have become one."""
    parent = {subject: subject for subject in subjects}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            subject = parent[subject]
        return subject

    for one, other in pairs:
        parent[root(other)] = root(one)
    return [root(subject) for subject in subjects]


def merge_identical(features: Features) -> list[str]:
    """A subject per image (its row, where subjects are unknown); subjects that share an image have become one."""
    owner: dict[bytes, str] = {}
    images = zip(features.digests(), features.ids, strict=True)
    return merge(features.ids, [(owner.setdefault(image, subject), subject) for image, subject in images])


def _also_in(train: Features, held_out: Features) -> list[int]:
    """Positions of held-out images that are a training image, flipped or not, but for the rounding of their thumbnails.

    Resampling a flipped image rounds a few pixels to the next grey level; the mean, which no flip changes, stays.
    """
    flips = [POSES[pose] for pose in orbit("flips", train.dims)]
    mean, row = _means(train.thumbnails).sort()
    found = []
    for i, (image, low) in enumerate(zip(held_out.thumbnails, _means(held_out.thumbnails) - ROUNDED, strict=True)):
        first, last = torch.searchsorted(mean, torch.stack([low, low + 2 * ROUNDED])).tolist()
        near = train.thumbnails[row[first:last]].short()
        if any(((near - flip(image).short()).abs().flatten(1) <= 1).all(dim=1).any() for flip in flips):
            found.append(i)
    return found


def _means(images: Tensor) -> Tensor:
    return torch.stack([image.double().mean() for image in images])


def _of_same_subjects(rows: Sequence[int], subjects: Sequence[str] | None, n: int) -> Tensor:
    """Images of any subject that one of `rows` is of, bool `(n,)`; these rows alone where subjects are unknown."""
    if subjects is None:
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[list(rows)] = True
        return chosen
    people = {subjects[i] for i in rows}
    return torch.tensor([subject in people for subject in subjects])
