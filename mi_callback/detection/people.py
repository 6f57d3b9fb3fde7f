"""Do the ids tell people apart? What can be seen of it is said, by counts: ids are not put into messages."""

import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.subjects.ids import has_no_id, spelled_in_two_ways
from mi_callback.retrieval.features import Features

SMALL = 24
"""Side, in pixels, at which neighbours in the data set are compared."""

FEWEST = 8
"""Pairs of neighbours from which a habit can be told."""

USUAL = 0.95
"""Share of pairs of images far apart in the data set that are less alike than neighbours are taken to be."""

MOST = 4096
"""Pairs of neighbours that are compared at most, spread over the data set: more would not tell better."""

ALIKE = 0.8
"""Median correlation of neighbours from which they may be slices of one person."""


def warn_of_ids(images: Features, side: str) -> None:
    """Say where ids may not tell people apart.

    Args:
        images: Of one side, in the order of the data set.
        side: Its name in the messages: `training`, `held-out`.
    """
    for doubt in _doubts(images):
        warnings.warn(f"{side} images: {doubt}", stacklevel=3)


def neighbours_alike(images: Features) -> bool:
    """Whether images beside each other in the data set resemble each other more than those far apart: slices in order.

    Half of the neighbours must be more alike than `USUAL` of the pairs half a data set apart, and by `ALIKE` at least.
    """
    n = len(images)
    if n <= FEWEST:
        return False
    here = torch.arange(n - 1) if n <= MOST else torch.linspace(0, n - 2, MOST).long()
    ones, next_ones, far_ones = (_standardised(images.thumbnails[(here + away) % n]) for away in (0, 1, n // 2))
    beside, apart = ((ones * others).mean(dim=1) for others in (next_ones, far_ones))
    return bool(beside.median() > max(float(apart.quantile(USUAL)), ALIKE))


def _doubts(images: Features) -> Iterator[str]:
    n, subjects = len(images), images.subjects
    people = len(set(images.ids))
    if subjects is not None and (missing := sum(map(has_no_id, subjects))):
        yield f"{missing} of {n} have no subject id (None, NaN, blank, unknown); each is taken as its own subject."
    if n > 1 and people == 1:
        yield (
            f"all {n} have the same subject id, which counts as one person. If it names a site, a class or the data "
            "set, name the ids of people: subject_key=…."
        )
    if subjects is not None and (twice := spelled_in_two_ways(set(subjects))):
        yield (
            f"{twice} subjects have ids that differ only in capitals, leading zeros, separators or sub-; they count as "
            "different people. Write each id in one way."
        )
    if people == n and neighbours_alike(images):
        without = "have no subject ids" if subjects is None else "have as many subject ids as images"
        yield (
            f"all {n} {without}, yet neighbours in the data set look like slices of one person. Pass the ids of "
            "people, or p-values are too small: subject_key=…."
        )


def _standardised(thumbnails: Tensor) -> Tensor:
    """Thumbnails, small, of mean 0 and variance 1, `(n, pixels)`."""
    pool = F.adaptive_avg_pool2d if thumbnails.ndim == 3 else F.adaptive_avg_pool3d
    side = SMALL if thumbnails.ndim == 3 else SMALL // 2
    small = torch.cat([pool(some[:, None].float(), side).flatten(1) for some in thumbnails.split(256)])
    centred = small - small.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
