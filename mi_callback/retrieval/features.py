"""Features of a set of images, per layer and pose, with their subjects and thumbnails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TypeVar

import torch
from torch import Tensor

from mi_callback.images.subjects.ids import settle
from mi_callback.retrieval.growing import GrowingColumns, GrowingTensor, joined, taken
from mi_callback.types import LayerFeatures, Thumbnails

_Id = TypeVar("_Id", str, str | None)


@dataclass(frozen=True)
class Features:
    """One pass over n images.

    Attributes:
        layers: `{layer: (poses, n, d)}` float32 on the CPU; pose 0 is the image as it came. These and all below are
            mapped from a file where they are large (`growing.LARGE`).
        thumbnails: uint8 `(n, side, side)`, of volumes `(n, side, side, side)`; patient data.
        subjects: One id per image, or None.
        sources: File of each image where its batch named one, or None.
        windows: `{layer: (poses, n, windows, d)}` float16, the same per window of the image, NaN where it shows
            no anatomy; empty where they were not asked for or the encoder has none.
        views: `{view: {layer: (poses, n, d)}}`, the images in other `views`, those of the training images alone as they
            came; empty where not asked for.
        descriptors: `{look: (poses, n, d)}` float32, what the copy descriptor says of each image, in poses of its own
            (`poses.descriptor_poses`), and of training images in all of its looks, as they came. Empty where it was
            not asked.
    """

    layers: dict[str, Tensor]
    thumbnails: Thumbnails
    subjects: list[str] | None
    sources: list[str] | None
    windows: dict[str, Tensor] = field(default_factory=dict)
    views: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    descriptors: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.thumbnails)

    @property
    def dims(self) -> int:
        """Spatial dimensions: 2 for images, 3 for volumes."""
        return self.thumbnails.ndim - 1

    def pose(self, position: int) -> LayerFeatures:
        """`{layer: (n, d)}` for one pose."""
        return {layer: features[position] for layer, features in self.layers.items()}

    def in_pose(self, position: int) -> "Features":
        """The same images in one pose alone, without the memory of the others; what training images alone have is in
        pose 0.
        """

        def alone(features: Tensor) -> Tensor:
            one = features[position : position + 1]
            return one if len(features) == 1 else joined([one], dim=1)

        return self._each(alone)

    def as_they_are(self) -> "Features":
        """The same images without windows, views and descriptors."""
        return replace(self, windows={}, views={}, descriptors={})

    def seen_as(self, view: str) -> "Features":
        """The same images in one of their views alone."""
        return replace(self.as_they_are(), layers=self.views[view])

    @property
    def ids(self) -> list[str]:
        """One id per image: its subject, or where subjects are unknown its row."""
        return self.subjects or [f"row {i}" for i in range(len(self))]

    def digests(self) -> list[bytes]:
        """A hash per thumbnail: equal for identical images."""
        return [digest(thumbnail) for thumbnail in self.thumbnails]

    @cached_property
    def distinct(self) -> Tensor:
        """Rows of the images without those that are an earlier one of the same subject again, `(m,)`, ascending."""
        first = dict[tuple[bytes, ...], int]()
        whose = self.subjects or [""] * len(self)
        for row, (image, subject) in enumerate(zip(self.digests(), whose, strict=True)):
            features = (digest(layer[0, row]) for layer in self.layers.values())
            first.setdefault((image, subject.encode(), *features), row)
        return torch.tensor(list(first.values()), dtype=torch.long)

    @property
    def once(self) -> "Features":
        """The distinct images; of a million they are gigabytes, so that they are taken out once."""
        return self if len(self.distinct) == len(self) else self._taken_out

    @cached_property
    def _taken_out(self) -> "Features":
        return self.where(self.distinct)

    def without_thumbnails(self) -> "Features":
        """The same images with thumbnails of no pixel: what is searched needs none."""
        return replace(self, thumbnails=self.thumbnails[:, :0])

    def where(self, rows: Tensor) -> "Features":
        """The images at `rows` (positions or a bool mask)."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        places = rows.tolist()
        return replace(
            self._each(lambda features: taken(features, rows, dim=1)),
            thumbnails=taken(self.thumbnails, rows),
            subjects=None if self.subjects is None else [self.subjects[i] for i in places],
            sources=None if self.sources is None else [self.sources[i] for i in places],
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """The same with what a change makes of all that was pooled."""

        def changed(pooled: dict[str, Tensor]) -> dict[str, Tensor]:
            return {layer: change(features) for layer, features in pooled.items()}

        views = {view: changed(pooled) for view, pooled in self.views.items()}
        whole, windows, described = (changed(pooled) for pooled in (self.layers, self.windows, self.descriptors))
        return replace(self, layers=whole, windows=windows, views=views, descriptors=described)


class GrowingFeatures:
    """Features of parts of a set of images, one behind the other, without keeping the parts."""

    def __init__(self) -> None:
        self.kinds, self.views = dict[str, GrowingColumns](), list[str]()
        self.thumbnails: GrowingTensor | None = None
        self.subjects: list[str | None] | None = []
        self.sources: list[str] | None = []

    def append(self, part: Features, subjects: Sequence[str | None] | None) -> None:
        """The next images, in the same poses, views and looks, and their ids: None where one, or all, are missing."""
        if self.thumbnails is None:
            self.views = list(part.views)
            self.thumbnails = GrowingTensor(part.thumbnails.shape[1:], part.thumbnails.dtype)
        self.thumbnails.append(part.thumbnails)
        views = {f"view {view}": pooled for view, pooled in part.views.items()}
        own = {"layers": part.layers, "windows": part.windows, "descriptors": part.descriptors}
        for kind, pooled in (own | views).items():
            self.kinds.setdefault(kind, GrowingColumns()).append(pooled)
        self.subjects = extended(self.subjects, subjects)
        self.sources = extended(self.sources, part.sources)

    def features(self) -> Features:
        """Those of all images, of one part at least; their subjects where all are known."""
        assert self.thumbnails is not None
        found = {kind: columns.tensors() for kind, columns in self.kinds.items()}
        views = {view: found[f"view {view}"] for view in self.views}
        thumbnails = self.thumbnails.tensor()
        own = found["layers"], thumbnails, settle(self.subjects, thumbnails), self.sources
        return Features(*own, found["windows"], views, found["descriptors"])


def extended(known: list[_Id] | None, new: Sequence[_Id] | None) -> list[_Id] | None:
    """The first list, longer by the second: known for all, or for none."""
    if known is None or new is None:
        return None
    known.extend(new)
    return known


def digest(thumbnail: Tensor) -> bytes:
    """A hash of one thumbnail `(side, side)`, or of other numbers."""
    return blake2b(thumbnail.contiguous().numpy().tobytes(), digest_size=16).digest()


def concatenate(one: Features, other: Features) -> Features:
    """The images of both, with what both have of layers, windows, views and descriptors; of nobody, for ids of
    different sources may coincide.
    """

    def both(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {layer: joined([ours[layer], theirs[layer]], dim=1) for layer in ours if layer in theirs}

    views = {view: both(one.views[view], other.views[view]) for view in one.views if view in other.views}
    thumbs = joined([one.thumbnails, other.thumbnails])
    windows, described = both(one.windows, other.windows), both(one.descriptors, other.descriptors)
    return Features(both(one.layers, other.layers), thumbs, None, None, windows, views, described)


def join(one: Features, other: Features) -> Features:
    """The images of both, in pose 0; subjects of different sides are different people, and unknown ones their own."""
    people = [f"{side} {subject}" for side, features in enumerate((one, other)) for subject in features.ids]
    return replace(concatenate(one.in_pose(0), other.in_pose(0)), subjects=people)
