"""Descriptors of training images as they are searched: which images may a query be a changed copy of?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_callback.retrieval.engines import Backend, Index, build_index
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.whitening import Whitening, WhiteningKind, fit_whitening


@dataclass(frozen=True)
class DescriptorIndex:
    """Descriptors of training images, each look about its own mean, indexed.

    Attributes:
        whitenings: By look; they centre, for the descriptor was trained to spread images evenly.
        indexes: By look, of unit length.
    """

    whitenings: dict[str, Whitening]
    indexes: dict[str, Index]

    @classmethod
    def fit(cls, train: Features, backend: Backend | str, device: torch.device | str) -> "DescriptorIndex | None":
        """Fit on pose 0 of the training images; None where they were not described."""
        if not train.descriptors or len(train) < 2:
            return None
        whitenings = {
            look: fit_whitening(described[0], WhiteningKind.NONE, device=device)
            for look, described in train.descriptors.items()
        }
        return cls.of(train, whitenings, backend)

    @classmethod
    def of(
        cls,
        train: Features,
        whitenings: dict[str, Whitening],
        backend: Backend | str,
        kept: Mapping[str, Tensor] | None = None,
    ) -> "DescriptorIndex":
        """Under whitenings that were fitted before, by look; with what the indexes kept."""
        indexes = {
            look: build_index(whitening.bank(train.descriptors[look][0]), backend, (kept or {}).get(look))
            for look, whitening in whitenings.items()
        }
        return cls(whitenings, indexes)

    def search(
        self, queries: Float[Tensor, "poses n d"], k: int
    ) -> tuple[Int[Tensor, "n looks k"], Float[Tensor, "n looks k"]]:
        """Training rows and cosines of the k nearest images of n queries, in every look of these and every pose."""
        found = [self._search_look(look, queries, k) for look in self.indexes]
        rows, cosines = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return rows, cosines

    def _search_look(self, look: str, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        whitening = self.whitenings[look]
        whitened = whitening(queries.flatten(0, 1).to(whitening.mean.device))
        cosines, rows = self.indexes[look].search(whitened, k)
        rows, cosines = (part.cpu().unflatten(0, queries.shape[:2]).transpose(0, 1) for part in (rows, cosines))
        return rows, cosines
