"""Whitened features of a training set, one index a layer: which training images are near, in which pose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mi_callback.errors import StateError
from mi_callback.images.poses import POSES, compose, first_poses
from mi_callback.retrieval.aggregation import Aggregation, aggregate
from mi_callback.retrieval.engines import Backend, Index, build_index
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.views import views_of
from mi_callback.retrieval.whitening import Mode, Whitening, fit_whitening
from mi_callback.retrieval.window_index import Regions
from mi_callback.statistics.subjects import numbered
from mi_callback.types import LayerFeatures

PER_SUBJECT = 4
"""Candidates taken from one subject: eight slices of one patient are not eight candidates."""

REGIONAL = 8
"""Candidates that are looked up by a window, beside those of the whole image."""

BY_EDGES = 24
"""Candidates that are looked up by edges, or in a view of another contrast, beside these."""

HITS = 2
"""Nearest neighbours asked of each index in each look, for each candidate that is looked up."""

AGAIN, ALIKE = 3, 0.7
"""How many of the best candidates are tried in a second pose too, if they are at least that much as similar in it: the
sides of a brain look alike to an encoder, but only in one pose is it the copy."""


Look = tuple[str, "Reference", Features]
"""The pose that a query then has to take on, training images as they are looked at, and queries in that view."""


@dataclass(frozen=True)
class Neighbours:
    """What the training set holds near n queries.

    Attributes:
        similarity: Aggregated similarity in the best pose, `(n,)` float64; larger is closer.
        layer_similarity: Nearest-neighbour cosine per layer in that pose, `(n, layers)`.
        match: Training row with the best aggregated similarity of its own, `(n,)`.
        pose: Position among `POSES` of the one in which `match` was found, `(n,)`.
        nearest: Each layer's own nearest neighbour in every look (pose of the query, and view of the training images or
            of both), `(looks, n, layers)`.
        candidates: Rows to verify, `(n, candidates)`: those of the whole image, best first, and the first of them in
            another pose, then those of its regions and of its edges likewise; −1 where there are fewer.
        candidate_poses: The pose of each, same shape.
        candidate_windows: The window of the query by which each was found (see `regions`), same shape; −1 for the
            whole image.
        candidate_by_edges: Whether each was found by edges, or in another contrast, bool, same shape.
    """

    similarity: Tensor
    layer_similarity: Tensor
    match: Tensor
    pose: Tensor
    nearest: Tensor
    candidates: Tensor
    candidate_poses: Tensor
    candidate_windows: Tensor
    candidate_by_edges: Tensor

    def consensus(self, match: Tensor) -> Tensor:
        """How many layers have `match` as their own nearest neighbour in some look, `(n,)`."""
        return (self.nearest == match[:, None]).any(dim=0).sum(dim=1)


@dataclass(frozen=True)
class Reference:
    """Training images as they are searched. Rows are those of the features it was fitted on.

    Each view of them is a reference of its own: under one whitening for all, blurred queries would be close to all that
    was magnified.
    """

    whitenings: dict[str, Whitening]
    indexes: dict[str, Index]
    subjects: Sequence[str] | None
    backend: Backend = "auto"
    regions: Regions | None = None
    views: dict[str, "Reference"] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, features: Features, whitening: Mode, backend: Backend = "auto", device: torch.device | str = "cpu"
    ) -> "Reference":
        """Fit whitening and index per layer on pose 0 of the training features."""
        whitenings = {layer: fit_whitening(f.to(device), whitening) for layer, f in features.pose(0).items()}
        regions = Regions.fit(features, whitening, backend, device)
        views = {name: cls.fit(features.seen_as(name), whitening, backend, device) for name in features.views}
        return cls(whitenings, {}, None, backend, regions, views)._over(features)

    def over(self, features: Features) -> "Reference":
        """The same whitening, other images to search in."""
        regions = None
        if self.regions is not None and features.regions:
            regions = Regions.of(features, self.regions.whitenings, self.backend)
        views = {
            name: reference.over(features.seen_as(name))
            for name, reference in self.views.items()
            if name in features.views
        }
        return replace(self, regions=regions, views=views)._over(features)

    def _over(self, features: Features) -> "Reference":
        indexes = {
            layer: build_index(whiten(features.layers[layer][0].to(whiten.mean.device)), self.backend)
            for layer, whiten in self.whitenings.items()
        }
        return replace(self, indexes=indexes, subjects=features.subjects)

    @property
    def layers(self) -> list[str]:
        return list(self.whitenings)

    def search(self, queries: Features, aggregation: Aggregation, candidates: int = 8) -> Neighbours:
        """Nearest training images of n queries, in the poses in which these were encoded, over all poses and layers.

        Per layer the nearest neighbour decides the similarity (the paper's definition); the match and the candidates
        are the training images whose *own* similarities, aggregated over layers, are largest.

        Raises:
            StateError: If the queries have other layers than the training features.
        """
        if list(queries.layers) != self.layers:
            raise StateError(f"needed features of the layers {self.layers}; {list(queries.layers)} came.")
        orbit = first_poses(len(next(iter(queries.layers.values()))), queries.dims)
        looks = [("identity", self, queries), *self._looks(queries, recoloured=False)]
        nearest, own, rows, scores, turned = self._look(looks, orbit, aggregation, candidates)
        aggregated = aggregate(nearest, aggregation, self.layers)
        best = aggregated.argmax(dim=0)
        each = torch.arange(len(best))
        top = scores[each, best].argmax(dim=1)
        chosen, poses, _ = self._choose(rows, scores, turned, candidates)
        kinds: list[tuple[Tensor, ...]] = [
            (chosen, poses, torch.full_like(chosen, -1), torch.zeros_like(chosen, dtype=torch.bool))
        ]
        if self.regions is not None and queries.regions:
            kinds.append(self._by_window(self.regions, queries, turned[: len(orbit)]))
        looks = self._looks(queries, recoloured=True)
        if looks:
            kinds.append(self._by_edges(looks, orbit, aggregation))
        chosen, poses, windows, by_edges = (torch.cat(parts, dim=1) for parts in zip(*kinds, strict=True))
        return Neighbours(
            similarity=aggregated[best, each],
            layer_similarity=nearest[best, each],
            match=rows[each, best, top],
            pose=turned[best],
            nearest=own,
            candidates=chosen,
            candidate_poses=poses,
            candidate_windows=windows,
            candidate_by_edges=by_edges,
        )

    def _looks(self, queries: Features, recoloured: bool) -> list[Look]:
        """In which views the training images are looked at, in their own contrast or in others."""
        known = views_of(queries.dims)
        looks = [(known[name], reference) for name, reference in self.views.items()]
        return [
            (view.pose, reference, queries if view.beside is None else queries.seen_as(view.beside))
            for view, reference in looks
            if view.recoloured == recoloured and (view.beside is None or view.beside in queries.views)
        ]

    def _by_window(self, regions: Regions, queries: Features, poses: Tensor) -> tuple[Tensor, ...]:
        """Candidates by windows of the queries, in these poses: rows, poses, windows, and that no edges found them."""
        parts, alike = regions.search(queries, REGIONAL * HITS)
        rows, pose, look = self._choose(parts.flatten(2), alike.flatten(2), poses, REGIONAL)
        return rows, pose, regions.window(parts, alike, rows, look), torch.zeros_like(rows, dtype=torch.bool)

    def _by_edges(self, looks: Sequence[Look], orbit: Sequence[str], aggregation: Aggregation) -> tuple[Tensor, ...]:
        """The same in looks that know no contrast: the whole window, and that these found them."""
        _, _, near, alike, turned = self._look(looks, orbit, aggregation, BY_EDGES)
        rows, pose, _ = self._choose(near, alike, turned, BY_EDGES)
        return rows, pose, torch.full_like(rows, -1), torch.ones_like(rows, dtype=torch.bool)

    @staticmethod
    def _look(
        looks: Sequence[Look], orbit: Sequence[str], aggregation: Aggregation, candidates: int
    ) -> tuple[Tensor, ...]:
        """What `_search_pose` finds in every look and pose, and the pose in which a query then resembles an image.

        Returns:
            Cosines and rows of nearest neighbours `(looks, n, layers)`, rows and scores of hits `(n, looks, k)`, and
            positions among `POSES`, `(looks,)`.
        """
        found = [
            reference._search_pose(seen.pose(position), aggregation, candidates)
            for _, reference, seen in looks
            for position in range(len(orbit))
        ]
        turned = torch.tensor([list(POSES).index(compose(pose, after)) for after, *_ in looks for pose in orbit])
        nearest, own = (torch.stack([f[part] for f in found]) for part in (0, 1))
        rows, scores = (torch.stack([f[part] for f in found], dim=1) for part in (2, 3))
        return nearest, own, rows, scores, turned

    def siblings(self, rows: Tensor, aggregation: Aggregation, most: int) -> Tensor:
        """Other images of the subjects of n rows, those first that look most alike, `(n, most)`; −1 for none."""
        found = torch.full((len(rows), most), -1)
        if self.subjects is None:
            return found
        subject = numbered(self.subjects)
        own = [(subject == subject[row]).nonzero().flatten() for row in rows]
        others = pad_sequence([same[same != row] for same, row in zip(own, rows, strict=True)], True, -1)
        cosines = [
            self._cosines(layer, self.indexes[layer].vectors(rows), others.clamp_min(0)) for layer in self.layers
        ]
        alike = aggregate(torch.stack(cosines, dim=-1), aggregation, self.layers).cpu().masked_fill(others < 0, -2.0)
        closest = others.gather(1, alike.argsort(dim=1, descending=True, stable=True))[:, :most]
        found[:, : closest.shape[1]] = closest
        return found

    def whitened(self, images: Features) -> Tensor:
        """Whitened features of pose 0, unit length per layer, layers side by side: `(n, d)` float32 on the CPU."""
        return torch.cat(list(self._whiten(images.pose(0)).values()), dim=1).cpu()

    def duplicates(self, images: Features, aggregation: Aggregation, similarity: float) -> Tensor:
        """Pairs of the n images that resemble each other more than `similarity`, in any pose of the first, `(k, 2)`."""
        found = [
            torch.stack([rows[first], second], dim=1)
            for rows, alike in self._among(images, aggregation)
            for first, second in [(alike > similarity).nonzero().unbind(dim=1)]
        ]
        pairs = torch.cat(found)
        return pairs[pairs[:, 0] < pairs[:, 1]]

    def closest_stranger(self, images: Features, aggregation: Aggregation) -> Tensor:
        """Similarity of each of the n images to the closest one of another subject, in any of its poses, `(n,)`.

        −1 where there is no other subject. None of the images may be part of what the whitening was fitted on.
        """
        subject = numbered(images.ids)
        closest = torch.full((len(images),), -1.0, dtype=torch.float64)
        for rows, alike in self._among(images, aggregation):
            strange = alike.masked_fill(subject[rows, None] == subject, -1.0)
            closest[rows] = torch.maximum(closest[rows], strange.amax(dim=1))
        return closest

    def _among(self, images: Features, aggregation: Aggregation) -> Iterator[tuple[Tensor, Tensor]]:
        """Similarity of images to each other, block by block and pose by pose: rows `(b,)` and `(b, n)`."""
        poses = len(next(iter(images.layers.values())))
        turned = [list(self._whiten(images.pose(pose)).values()) for pose in range(poses)]
        for rows in torch.arange(len(images)).split(max(1, 2**22 // len(images))):
            for features in turned:
                cosines = [one[rows] @ other.T for one, other in zip(features, turned[0], strict=True)]
                yield rows, aggregate(torch.stack(cosines, dim=-1), aggregation, self.layers).cpu()

    def _whiten(self, features: LayerFeatures) -> LayerFeatures:
        """Features of one pose, whitened, of unit length, on the device of the whitenings."""
        device = next(iter(self.whitenings.values())).mean.device
        return {layer: self.whitenings[layer](features[layer].to(device)) for layer in self.layers}

    def _search_pose(
        self, queries: dict[str, Tensor], aggregation: Aggregation, candidates: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per layer nearest cosine and row `(n, layers)`; rows near in any layer and their own score `(n, k)`."""
        whitened = self._whiten(queries)
        hits = {layer: self.indexes[layer].search(whitened[layer], candidates * HITS) for layer in self.layers}
        rows = torch.cat([found for _, found in hits.values()], dim=1)
        cosines = [
            torch.cat(
                [alike if by == layer else self._cosines(layer, query, found) for by, (alike, found) in hits.items()], 1
            )
            for layer, query in whitened.items()
        ]
        score = aggregate(torch.stack(cosines, dim=-1), aggregation, self.layers)
        nearest, own = (torch.stack([hit[part][:, 0] for hit in hits.values()], dim=1) for part in (0, 1))
        return nearest.cpu(), own.cpu(), rows.cpu(), score.cpu()

    def _cosines(self, layer: str, queries: Tensor, rows: Tensor) -> Tensor:
        """Cosine of query i with training rows `rows[i]`, `(n, k)`, in blocks of bounded memory."""
        block = max(1, 2**24 // max(1, rows.shape[1] * queries.shape[1]))
        parts = [
            torch.einsum("nd,nkd->nk", q, self.indexes[layer].vectors(r))
            for q, r in zip(queries.split(block), rows.split(block), strict=True)
        ]
        return torch.cat(parts)

    def _choose(self, rows: Tensor, scores: Tensor, poses: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of k hits of each query in each look, `(n, looks, k)`, the best: each row once, few of a subject.

        Args:
            poses: The pose of each look, `(looks,)`.

        Returns:
            Their rows, poses and looks, `(n, candidates + min(candidates, AGAIN))`: the first ones in another pose at
            the end. Rows are −1 where there are fewer.
        """
        n, _, k = rows.shape
        rows, scores, poses = rows.flatten(1), scores.flatten(1), poses.repeat_interleave(k)
        chosen, place = torch.full((n, candidates), -1), torch.zeros(n, candidates, dtype=torch.long)
        score, order = scores.sort(dim=1, descending=True, stable=True)
        ranked = rows.gather(1, order).masked_fill(score == -torch.inf, -1)
        for i, (query_rows, places) in enumerate(zip(ranked, order, strict=True)):
            taken: dict[int, int] = {}
            of_subject: dict[str, int] = {}
            for row, position in zip(query_rows.tolist(), places.tolist(), strict=True):
                if len(taken) == candidates or row < 0:
                    break
                subject = f"row {row}" if self.subjects is None else self.subjects[row]
                if row in taken or of_subject.get(subject, 0) >= PER_SUBJECT:
                    continue
                taken[row] = position
                of_subject[subject] = of_subject.get(subject, 0) + 1
            chosen[i, : len(taken)] = torch.tensor(list(taken), dtype=torch.long)
            place[i, : len(taken)] = torch.tensor(list(taken.values()), dtype=torch.long)
        again, elsewhere = _in_another_pose(rows, scores, poses, chosen[:, :AGAIN], place[:, :AGAIN])
        chosen, place = torch.cat([chosen, again], dim=1), torch.cat([place, elsewhere], dim=1)
        return chosen, poses[place], place // k


def _in_another_pose(
    rows: Tensor, scores: Tensor, poses: Tensor, chosen: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """The best hit of chosen rows in another pose: the row, −1 where that is much worse, and where it is, `(n, m)`.

    Args:
        rows, scores: Of the hits of each query, `(n, hits)`.
        poses: Of hits, `(hits,)`.
        chosen, place: Rows and where among the hits each was found, `(n, m)`.
    """
    other = (rows[:, None] == chosen[:, :, None]) & (poses != poses[place][:, :, None])
    second, position = scores[:, None].masked_fill(~other, -torch.inf).max(dim=2)
    alike = second >= ALIKE * scores.gather(1, place).clamp_min(0)
    return chosen.masked_fill(~alike, -1), position
