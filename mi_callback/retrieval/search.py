"""Which training images come near a query, in which pose and view of them, and which are worth aligning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_callback.encoders.descriptor import AS_IT_IS
from mi_callback.errors import StateError
from mi_callback.images.poses import POSES, descriptor_poses, first_poses
from mi_callback.retrieval.aggregation import Aggregation, aggregate
from mi_callback.retrieval.candidates import Candidates, choose
from mi_callback.retrieval.config import SEARCH, SearchConfig
from mi_callback.retrieval.descriptor_index import DescriptorIndex
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.views import views_of
from mi_callback.retrieval.window_index import WindowIndex
from mi_callback.types import LayerFeatures


@dataclass(frozen=True)
class Neighbours:
    """What the training set holds near n queries.

    Attributes:
        similarity: Aggregated similarity in the best pose, float64; larger is closer.
        layer_similarity: Nearest-neighbour cosine of each layer in that pose.
        match: Row of the training set with the best aggregated similarity of its own.
        pose: Position among `POSES` of the one in which `match` was found.
        nearest: Each layer's own nearest neighbour in every look (pose of the query, and view of the training images or
            of both).
        candidates: Training images to align, best first: those of the whole image and the first of them in a second
            pose, then those of its windows and of its edges likewise.
    """

    similarity: Float[Tensor, " n"]
    layer_similarity: Float[Tensor, "n layers"]
    match: Int[Tensor, " n"]
    pose: Int[Tensor, " n"]
    nearest: Int[Tensor, "looks n layers"]
    candidates: Candidates

    def consensus(self, match: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """How many layers have `match` as their own nearest neighbour in some look."""
        return (self.nearest == match[:, None]).any(dim=0).sum(dim=1)


class Look(NamedTuple):
    """Training images in one view beside queries as that view wants them.

    Attributes:
        reference: Training images in the view.
        queries: Queries in theirs.
    """

    reference: Reference
    queries: Features


class Hits(NamedTuple):
    """What is near queries in one look, or in several stacked.

    Attributes:
        cosine: That of the nearest neighbour of each layer, `(n, layers)`; stacked `(looks, n, layers)`.
        nearest: Its row, of the same shape.
        rows: Training images that are near in any layer, `(n, k)`; stacked `(n, looks, k)`.
        scores: Their own similarity over all layers, of the same shape; larger is closer.
    """

    cosine: Tensor
    nearest: Tensor
    rows: Tensor
    scores: Tensor


def search(
    reference: Reference,
    queries: Features,
    aggregation: Aggregation,
    candidates: int = 8,
    config: SearchConfig = SEARCH,
) -> Neighbours:
    """Nearest training images of n queries over all layers and the poses in which the queries were encoded.

    Per layer the nearest neighbour decides the similarity (the paper's definition); the match and the candidates are
    the training images whose *own* similarities, aggregated over layers, are largest.

    Args:
        reference: Training images.
        queries: Features in the poses of the orbit.
        aggregation: How the similarities of layers combine.
        candidates: Training images that are looked up by the whole image.
        config: How many are looked up otherwise.

    Raises:
        StateError: If the queries have other layers than the training features.
    """
    if list(queries.layers) != reference.layers:
        raise StateError(f"needed features of the layers {reference.layers}; {list(queries.layers)} came.")
    orbit = first_poses(len(next(iter(queries.layers.values()))), queries.dims)
    looks = [Look(reference, queries), *_looks(reference, queries, recoloured=False)]
    hits, poses = _look(looks, orbit, aggregation, candidates * config.hits)
    aggregated = aggregate(hits.cosine, aggregation, reference.layers)
    best = aggregated.argmax(dim=0)
    each = torch.arange(len(best))
    top = hits.scores[each, best].argmax(dim=1)
    whole = choose(hits.rows, hits.scores, poses, reference.subjects, candidates, config)
    kinds = [Candidates.of_kind(whole.row, whole.pose)]
    if reference.windows is not None and queries.windows:
        kinds.append(_by_window(reference, reference.windows, queries, poses[: len(orbit)], config))
    if recoloured := _looks(reference, queries, recoloured=True):
        kinds.append(_by_edges(reference, recoloured, orbit, aggregation, config))
    if reference.descriptors is not None and AS_IT_IS in queries.descriptors:
        found = _by_descriptor(reference, reference.descriptors, queries.descriptors[AS_IT_IS], orbit, config)
        # What was found in any way may be in another contrast.
        others = [kind.first(config.by_edges_too) for kind in kinds]
        kinds += [found.first(config.by_grey_values), *(kind.by_their_edges() for kind in (found, *others))]
    to_align = kinds[0].beside(*kinds[1:]).once()
    return Neighbours(
        similarity=aggregated[best, each],
        layer_similarity=hits.cosine[best, each],
        match=reference.trained(hits.rows[each, best, top]),
        pose=poses[best],
        nearest=reference.trained(hits.nearest),
        candidates=replace(to_align, row=reference.trained(to_align.row)),
    )


def _looks(reference: Reference, queries: Features, recoloured: bool) -> list[Look]:
    """In which views the training images are looked at, in their own contrast or in others."""
    known = views_of(queries.dims)
    looks = [(known[name], seen) for name, seen in reference.views.items()]
    return [
        Look(seen, queries if view.beside is None else queries.seen_as(view.beside))
        for view, seen in looks
        if view.recoloured == recoloured and (view.beside is None or view.beside in queries.views)
    ]


def _by_window(
    reference: Reference, windows: WindowIndex, queries: Features, poses: Tensor, config: SearchConfig
) -> Candidates:
    """Candidates by windows of the queries, in these poses."""
    rows, cosines = windows.search(queries, config.by_window * config.hits)
    found = choose(rows.flatten(2), cosines.flatten(2), poses, reference.subjects, config.by_window, config)
    return Candidates.of_kind(found.row, found.pose, windows.locate(rows, cosines, found.row, found.look))


def _by_edges(
    reference: Reference, looks: Sequence[Look], orbit: Sequence[str], aggregation: Aggregation, config: SearchConfig
) -> Candidates:
    """Candidates in looks that know no contrast."""
    hits, poses = _look(looks, orbit, aggregation, config.by_edges * config.hits)
    found = choose(hits.rows, hits.scores, poses, reference.subjects, config.by_edges, config)
    return Candidates.of_kind(found.row, found.pose, by_edges=True)


def _by_descriptor(
    reference: Reference, descriptors: DescriptorIndex, queries: Tensor, orbit: Sequence[str], config: SearchConfig
) -> Candidates:
    """Candidates by what the copy descriptor says, whose poses are not sure: many are tried in a second one."""
    rows, cosines = descriptors.search(queries, config.by_descriptor * config.hits)
    poses = torch.tensor([list(POSES).index(pose) for pose in descriptor_poses(orbit)]).repeat(len(descriptors.indexes))
    config = replace(config, second_poses=config.described_second_poses)
    found = choose(rows, cosines, poses, reference.subjects, config.by_descriptor, config)
    return Candidates.of_kind(found.row, found.pose)


def _look(looks: Sequence[Look], orbit: Sequence[str], aggregation: Aggregation, k: int) -> tuple[Hits, Tensor]:
    """Hits in every look and pose, stacked, and the poses, `(looks,)`."""
    found = [
        _hits(look.reference, look.queries.pose(position), aggregation, k)
        for look in looks
        for position in range(len(orbit))
    ]
    poses = torch.tensor([list(POSES).index(pose) for pose in orbit]).repeat(len(looks))
    cosine, nearest = (torch.stack([getattr(hits, part) for hits in found]) for part in ("cosine", "nearest"))
    rows, scores = (torch.stack([getattr(hits, part) for hits in found], dim=1) for part in ("rows", "scores"))
    return Hits(cosine, nearest, rows, scores), poses


def _hits(reference: Reference, queries: LayerFeatures, aggregation: Aggregation, k: int) -> Hits:
    """What is near queries in one pose: k training images a layer, each scored over all layers."""
    whitened = reference.whiten(queries)
    near = {layer: reference.indexes[layer].search(whitened[layer], k) for layer in reference.layers}
    rows = torch.cat([found for _, found in near.values()], dim=1)
    cosines = [
        torch.cat(
            [cosine if by == layer else reference.cosines(layer, query, found) for by, (cosine, found) in near.items()],
            dim=1,
        )
        for layer, query in whitened.items()
    ]
    scores = aggregate(torch.stack(cosines, dim=-1), aggregation, reference.layers)
    cosine, nearest = (torch.stack([found[part][:, 0] for found in near.values()], dim=1) for part in (0, 1))
    return Hits(cosine.cpu(), nearest.cpu(), rows.cpu(), scores.cpu())
