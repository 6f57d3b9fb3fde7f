"""Training images as they are searched: whitened features, one index a layer, the same for each view of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mi_callback.retrieval.aggregation import Aggregation, aggregate
from mi_callback.retrieval.descriptor_index import DescriptorIndex
from mi_callback.retrieval.engines import Backend, Index, build_index
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.whitening import Whitening, WhiteningKind, fit_whitening
from mi_callback.retrieval.window_index import WindowIndex
from mi_callback.statistics.subjects import numbered
from mi_callback.types import LayerFeatures

INDEX = "index/"
"""Begin of the names of what indexes keep, among the parts of a reference."""

ROWS = "rows"
"""Name of `Reference.rows` among them."""


@dataclass(frozen=True)
class Reference:
    """Whitening and index of a set of training images.

    An image that is there several times (of rare cases, data sets often hold copies) is searched once: its copies would
    take the places of other candidates.

    Each view of the images is a reference of its own: under one whitening for all, blurred queries would be close to
    all that was magnified.

    Attributes:
        whitenings: Per layer, fitted on the training images alone.
        indexes: Per layer, over whitened features of unit length.
        subjects: Subject of each image that is searched, or None.
        backend: Engine of the indexes.
        windows: Index of the windows of the images; None where there are none.
        views: The same images in other views (see `views`).
        descriptors: Index of what the copy descriptor says of them; None where it was not asked.
        rows: Row in the training set of each image that is searched, ascending; None where all are.
    """

    whitenings: dict[str, Whitening]
    indexes: dict[str, Index]
    subjects: Sequence[str] | None
    backend: Backend | str = Backend.AUTO
    windows: WindowIndex | None = None
    views: dict[str, "Reference"] = field(default_factory=dict)
    descriptors: DescriptorIndex | None = None
    rows: Tensor | None = None

    @classmethod
    def fit(
        cls,
        features: Features,
        whitening: WhiteningKind | str,
        backend: Backend | str = Backend.AUTO,
        device: torch.device | str = "cpu",
    ) -> "Reference":
        """Fit whitening and index per layer on pose 0 of the training features, and on each of their views."""
        return replace(cls._fit(features.once, whitening, backend, device), rows=_rows(features))

    @classmethod
    def _fit(
        cls, features: Features, whitening: WhiteningKind | str, backend: Backend | str, device: torch.device | str
    ) -> "Reference":
        """The same of images that are each there once."""
        whitenings = {layer: fit_whitening(f, whitening, device=device) for layer, f in features.pose(0).items()}
        windows = WindowIndex.fit(features, whitening, backend, device)
        views = {name: cls._fit(features.seen_as(name), whitening, backend, device) for name in features.views}
        descriptors = DescriptorIndex.fit(features, backend, device)
        return cls(whitenings, {}, None, backend, windows, views, descriptors)._indexed(features)

    @classmethod
    def restored(
        cls, features: Features, parts: Mapping[str, Tensor], backend: Backend | str, device: torch.device | str
    ) -> "Reference":
        """Of the `parts` of another one that was fitted on the same features."""
        if (rows := parts.get(ROWS)) is not None:
            others = {name: part for name, part in parts.items() if name != ROWS}
            return replace(cls.restored(features.without_thumbnails().where(rows), others, backend, device), rows=rows)

        def whitenings(kind: str, names: Iterable[str]) -> dict[str, Whitening]:
            return {name: Whitening.of(_under(parts, f"{kind}/{name}/"), device) for name in names}

        windows = descriptors = None
        if _under(parts, "windows/"):
            kept = parts.get(f"{INDEX}windows")
            windows = WindowIndex.of(features, whitenings("windows", features.windows), backend, kept)
        if _under(parts, "descriptors/"):
            by_look, indexes = whitenings("descriptors", features.descriptors), _under(parts, f"{INDEX}descriptors/")
            descriptors = DescriptorIndex.of(features, by_look, backend, indexes)
        views = {
            name: cls.restored(features.seen_as(name), _under(parts, f"views/{name}/"), backend, device)
            for name in features.views
        }
        own = cls(whitenings("layers", features.layers), {}, None, backend, windows, views, descriptors)
        return own._indexed(features, _under(parts, f"{INDEX}layers/"))

    def parts(self) -> dict[str, Tensor]:
        """What it takes time to make of features: whitenings, and what indexes keep. By name, on the CPU."""
        whitenings, indexes = {"layers": self.whitenings}, {f"layers/{name}": one for name, one in self.indexes.items()}
        if self.windows is not None:
            whitenings["windows"], indexes["windows"] = self.windows.whitenings, self.windows.index
        if self.descriptors is not None:
            whitenings["descriptors"] = self.descriptors.whitenings
            indexes |= {f"descriptors/{look}": one for look, one in self.descriptors.indexes.items()}
        found = {
            f"{kind}/{name}/{part}": tensor
            for kind, each in whitenings.items()
            for name, whitening in each.items()
            for part, tensor in whitening.tensors().items()
        }
        found |= {} if self.rows is None else {ROWS: self.rows}
        found |= {INDEX + name: index.kept for name, index in indexes.items() if index.kept is not None}
        views = {f"views/{name}/": view.parts() for name, view in self.views.items()}
        return found | {prefix + name: part for prefix, parts in views.items() for name, part in parts.items()}

    def over(self, features: Features) -> "Reference":
        """The same whitening, other images to search in."""
        return replace(self._over(features.once), rows=_rows(features))

    def _over(self, features: Features) -> "Reference":
        """The same of images that are each there once."""
        windows = None
        if self.windows is not None and features.windows:
            windows = WindowIndex.of(features, self.windows.whitenings, self.backend)
        views = {
            name: reference._over(features.seen_as(name))
            for name, reference in self.views.items()
            if name in features.views
        }
        descriptors = None
        if self.descriptors is not None and features.descriptors:
            descriptors = DescriptorIndex.of(features, self.descriptors.whitenings, self.backend)
        return replace(self, windows=windows, views=views, descriptors=descriptors)._indexed(features)

    def _indexed(self, features: Features, kept: Mapping[str, Tensor] | None = None) -> "Reference":
        indexes = {
            layer: build_index(whiten.bank(features.layers[layer][0]), self.backend, (kept or {}).get(layer))
            for layer, whiten in self.whitenings.items()
        }
        return replace(self, indexes=indexes, subjects=features.subjects)

    @property
    def approximate(self) -> list[str]:
        """Names of the engines that may miss a training image; none where search is exact."""
        own = [*self.indexes.values()]
        own += [] if self.windows is None else [self.windows.index]
        own += [] if self.descriptors is None else [*self.descriptors.indexes.values()]
        seen = {name for view in self.views.values() for name in view.approximate}
        return sorted(seen | {index.approximate for index in own if index.approximate is not None})

    @property
    def layers(self) -> list[str]:
        return list(self.whitenings)

    def whiten(self, features: LayerFeatures) -> LayerFeatures:
        """Features of one pose, whitened, of unit length, on the device of the whitenings."""
        device = next(iter(self.whitenings.values())).mean.device
        return {layer: self.whitenings[layer](features[layer].to(device)) for layer in self.layers}

    def whitened(self, images: Features) -> Float[Tensor, "n d"]:
        """Whitened features of pose 0, of unit length per layer, layers side by side; float32 on the CPU."""
        return torch.cat(list(self.whiten(images.pose(0)).values()), dim=1).cpu()

    def cosines(self, layer: str, queries: Float[Tensor, "n d"], rows: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Cosine of each whitened query with training images of its own, in blocks of bounded memory."""
        block = max(1, 2**24 // max(1, rows.shape[1] * queries.shape[1]))
        parts = [
            torch.einsum("nd,nkd->nk", q, self.indexes[layer].vectors(r))
            for q, r in zip(queries.split(block), rows.split(block), strict=True)
        ]
        return torch.cat(parts)

    def trained(self, searched: Tensor) -> Tensor:
        """Rows of the training set, of images that are searched, in any shape; −1 stays."""
        return searched if self.rows is None else self.rows[searched].where(searched >= 0, searched)

    def siblings(self, rows: Int[Tensor, " n"], aggregation: Aggregation, most: int) -> Int[Tensor, "n most"]:
        """Other images of the subjects of training images, those first that look most alike; −1 where there are fewer.

        Args:
            rows: Rows of the training set, as `trained` gives them.
            aggregation: How the similarities of layers combine.
            most: How many siblings of each row are returned at most.
        """
        found = torch.full((len(rows), most), -1)
        if self.subjects is None:
            return found
        rows = rows if self.rows is None else torch.searchsorted(self.rows, rows)
        subject = numbered(self.subjects)
        own = [(subject == subject[row]).nonzero().flatten() for row in rows]
        others = pad_sequence([same[same != row] for same, row in zip(own, rows, strict=True)], True, -1)
        cosines = [self.cosines(layer, self.indexes[layer].vectors(rows), others.clamp_min(0)) for layer in self.layers]
        alike = aggregate(torch.stack(cosines, dim=-1), aggregation, self.layers).cpu().masked_fill(others < 0, -2.0)
        closest = others.gather(1, alike.argsort(dim=1, descending=True, stable=True))[:, :most]
        found[:, : closest.shape[1]] = closest
        return self.trained(found)


def _rows(features: Features) -> Tensor | None:
    """Those of the distinct images; None where all are."""
    return None if len(features.distinct) == len(features) else features.distinct


def _under(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}
