"""Images that resemble each other, rather than the training set: near-duplicates and the closest strangers."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_callback.retrieval.aggregation import Aggregation, aggregate
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.statistics.subjects import numbered

BLOCK = 2**22
"""Similarities that are held at a time."""


def near_duplicates(
    reference: Reference, images: Features, aggregation: Aggregation, similarity: float
) -> Int[Tensor, "k 2"]:
    """Pairs of images that resemble each other more than `similarity`, in any pose of the first.

    Args:
        reference: Gives the whitening.
        images: Features in any number of poses.
        aggregation: How the similarities of layers combine.
        similarity: Beyond which two images are near-duplicates.
    """
    found = [
        torch.stack([rows[first], second], dim=1)
        for rows, alike in _among(reference, images, aggregation)
        for first, second in [(alike > similarity).nonzero().unbind(dim=1)]
    ]
    pairs = torch.cat(found)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def closest_strangers(reference: Reference, images: Features, aggregation: Aggregation) -> Float[Tensor, " n"]:
    """Similarity of each image to the closest one of another subject, in any of its poses; larger is closer.

    −1 where there is no other subject. None of the images may be part of what the whitening was fitted on.
    """
    subject = numbered(images.ids)
    closest = torch.full((len(images),), -1.0, dtype=torch.float64)
    for rows, alike in _among(reference, images, aggregation):
        strange = alike.masked_fill(subject[rows, None] == subject, -1.0)
        closest[rows] = torch.maximum(closest[rows], strange.amax(dim=1))
    return closest


def _among(reference: Reference, images: Features, aggregation: Aggregation) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarity of images to each other, block by block and pose by pose: rows `(b,)` and `(b, n)`."""
    poses = len(next(iter(images.layers.values())))
    turned = [list(reference.whiten(images.pose(pose)).values()) for pose in range(poses)]
    for rows in torch.arange(len(images)).split(max(1, BLOCK // len(images))):
        for features in turned:
            cosines = [one[rows] @ other.T for one, other in zip(features, turned[0], strict=True)]
            yield rows, aggregate(torch.stack(cosines, dim=-1), aggregation, reference.layers).cpu()
