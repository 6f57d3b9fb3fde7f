"""How many of the nearest training images approximate engines find, measured with real queries."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mi_callback.encoders.descriptor import AS_IT_IS
from mi_callback.retrieval.config import SEARCH, SearchConfig
from mi_callback.retrieval.engines import Index, RerankedIndex, recall_of
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.views import views_of

MEASURED = 64
"""Images that are looked up, at most."""


def measured_recall(
    reference: Reference, images: Features, candidates: int, seed: int = 0, config: SearchConfig = SEARCH
) -> float | None:
    """Share of the neighbours that are found, of those that a search asks for, in the worst of all indexes.

    Args:
        reference: Training images.
        images: Real images, in the poses of queries; they are looked up in their last pose, as a flipped copy would be.
        candidates: Training images that are looked up by the whole image.
        seed: Of the draw of images.
        config: How many are looked up otherwise.

    Returns:
        The share; None where every index is exact.
    """
    if not reference.approximate:
        return None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    asked = _asked(reference, images.where(order[:MEASURED]), candidates * config.hits, config)
    found = [recall_of(index, queries, k) for index, queries, k in asked if isinstance(index, RerankedIndex)]
    return min(found)


def _asked(
    reference: Reference, queries: Features, k: int, config: SearchConfig
) -> Iterator[tuple[Index, Tensor, int]]:
    """Every index with what a search asks it: vectors, and the number of neighbours."""
    whitened = reference.whiten(queries.pose(-1))
    yield from ((reference.indexes[layer], whitened[layer], k) for layer in reference.layers)
    if reference.windows is not None and queries.windows:
        yield reference.windows.index, reference.windows.whitened(queries, -1), config.by_window * config.hits
    if reference.descriptors is not None and AS_IT_IS in queries.descriptors:
        described = queries.descriptors[AS_IT_IS][-1]
        for look, whitening in reference.descriptors.whitenings.items():
            index = reference.descriptors.indexes[look]
            yield index, whitening(described.to(whitening.mean.device)), config.by_descriptor * config.hits
    for name, seen in reference.views.items():
        view = views_of(queries.dims)[name]
        if view.beside is None or view.beside in queries.views:
            like = queries if view.beside is None else queries.seen_as(view.beside)
            yield from _asked(seen, like.as_they_are(), config.by_edges * config.hits if view.recoloured else k, config)
