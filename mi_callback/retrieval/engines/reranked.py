"""Approximate search that answers as exact search does: what is found is compared anew, by the vectors themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mi_callback.retrieval.engines.exact import TorchIndex
from mi_callback.retrieval.engines.protocol import SHORTLISTED, Shortlist
from mi_callback.types import Indices

FEWEST = 280
"""Vectors that are compared at least, where there are as many."""

AT_ONCE = 2**24
"""Numbers of the compared vectors that are held at a time."""


class RerankedIndex:
    """A short list by an approximate engine, ranked by its exact similarities.

    Queries for which the engine finds fewer than asked are searched exactly.

    Args:
        bank: Unit vectors `(m, d)`; may be mapped from a file.
        build: Makes the engine of them; called again when the index is copied or unpickled, with `kept=` where the
            engine keeps something.
    """

    def __init__(self, bank: Tensor, build: Callable[..., Shortlist]) -> None:
        self.bank, self.build = bank, build
        self.engine = build(bank)

    def __reduce__(self) -> tuple[Any, ...]:
        build = self.build if self.kept is None else partial(self.build, kept=self.kept)
        return RerankedIndex, (self.bank, build)

    @property
    def approximate(self) -> str:
        """Name of the engine."""
        return self.engine.name

    @property
    def kept(self) -> Tensor | None:
        """Bytes of which the engine is made again without its long work."""
        return self.engine.kept

    def __len__(self) -> int:
        return len(self.bank)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Indices]:
        k = min(k, len(self))
        compared = min(len(self), max(FEWEST, SHORTLISTED * k))
        blocks = queries.to(self.bank).split(max(1, AT_ONCE // (compared * self.bank.shape[1])))
        similarity, rows = zip(*(self._ranked(block, k, compared) for block in blocks), strict=True)
        return torch.cat(similarity), torch.cat(rows)

    def vectors(self, rows: Tensor) -> Tensor:
        return self.bank[rows]

    def _ranked(self, queries: Tensor, k: int, compared: int) -> tuple[Tensor, Indices]:
        rows = self.engine.rows(queries, compared) if len(queries) else queries.new_full((0, k), -1).long()
        found = rows >= 0
        similarity = torch.einsum("nd,nkd->nk", queries, self.bank[rows.clamp_min(0)])
        similarity, place = similarity.masked_fill(~found, -torch.inf).topk(min(k, rows.shape[1]), dim=1)
        rows = rows.gather(1, place)
        few = found.sum(dim=1) < k
        if few.any():
            similarity, rows = (torch.nn.functional.pad(part, (0, k - part.shape[1])) for part in (similarity, rows))
            similarity[few], rows[few] = TorchIndex(self.bank).search(queries[few], k)
        return similarity, rows


def recall_of(index: RerankedIndex, queries: Tensor, k: int) -> float:
    """Share of the k nearest vectors of each query that the index finds; of equally near ones any counts.

    Args:
        index: The one that is measured.
        queries: Unit vectors `(n, d)`, such as will be looked up; for none the share is 1.
        k: Neighbours that will be asked for.
    """
    if not len(queries):
        return 1.0
    similarity, _ = index.search(queries, k)
    exact, _ = TorchIndex(index.bank).search(queries, k)
    return float((similarity >= exact[:, -1:] - 1e-6).double().mean())
