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
from mi_callback.images.subjects.ids import loose_id
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.growing import blocks_of, gather
from mi_callback.statistics.subjects import images_of_same_subjects, merge_subjects

ROUNDED = 0.01
"""Difference of the mean grey levels, of 255, of two thumbnails of one image at most."""


def without_leaks(train: Features, held_out: Features, name: str = "held-out") -> Features:
    """Held-out images of people who, by id or by an identical image (flipped or not), are not in the training set.

    A person is left out with all images. Ids that are probably the same (see `loose_id`) count as the same here: to
    take out a person too many costs little.

    Args:
        train: Training images.
        held_out: Those that must not be of people who were trained on.
        name: What these are called in messages.

    Raises:
        DataError: If fewer than two images are left.
    """
    by_id = _trained_on(train.subjects or (), held_out.subjects or ())
    by_image = _also_in(train, held_out)
    found = sorted({*by_id, *by_image})
    if not found:
        return held_out
    kept = ~images_of_same_subjects(found, held_out.subjects, len(held_out))
    what = _what_leaks(train, held_out, by_id, by_image, name)
    if int(kept.sum()) < 2:
        raise DataError(
            f"needed {name} images that were not trained on, of other subjects; {what}; nothing is left. Split by "
            "subject (mi_callback.images.files.split_by_subject); give people of different sites different ids, and "
            "where the ids name classes, name those of people: subject_key=…; or calibrate without: null='cross_fit'."
        )
    warnings.warn(f"{what}. These people are left out: {int(kept.sum())} {name} images remain.", stacklevel=2)
    return held_out.where(kept)


def _trained_on(train: Sequence[str], held_out: Sequence[str]) -> list[int]:
    """Positions of held-out images of a person who, by id, is in the training set."""
    known = {loose_id(subject) for subject in set(train)}
    alike = {subject for subject in set(held_out) if loose_id(subject) in known}
    return [i for i, subject in enumerate(held_out) if subject in alike]


def _what_leaks(train: Features, held_out: Features, by_id: Sequence[int], by_image: Sequence[int], name: str) -> str:
    """The leaks in numbers."""
    people = {held_out.subjects[i] for i in by_id} if held_out.subjects else set()
    otherwise = len(people - set(train.subjects or ()))
    spelled = (
        f" ({otherwise} of them under an id that is probably the same, written in another way)" if otherwise else ""
    )
    return (
        f"{len(by_image)} of {len(held_out)} {name} images are in the training set too, and {len(people)} {name} "
        f"subjects were trained on{spelled}, e.g. that of {name} image {min(*by_id, *by_image, len(held_out))}"
    )


def merge_identical(features: Features) -> list[str]:
    """A subject per image (its row, where subjects are unknown); subjects that share an image have become one."""
    owner: dict[bytes, str] = {}
    images = zip(features.digests(), features.ids, strict=True)
    return merge_subjects(features.ids, [(owner.setdefault(image, subject), subject) for image, subject in images])


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
    """Mean grey level of each image."""
    blocks = blocks_of(len(images), 8 * images.shape[1:].numel())
    return gather((images[rows].flatten(1).double().mean(dim=1) for rows in blocks), len(images))
