"""Exact nearest neighbours by inner product, in bounded memory."""

import torch
from torch import Tensor

from mi_callback.types import Indices


class TorchIndex:
    """Blocked matrix product and top-k on any device; the (n, m) matrix never exists as a whole.

    Args:
        bank: Unit vectors `(m, d)`.
        block: Entries of the similarity matrix held at a time.
    """

    approximate = kept = None

    def __init__(self, bank: Tensor, block: int = 2**22) -> None:
        self.bank, self.block = bank.contiguous(), block

    def __len__(self) -> int:
        return len(self.bank)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Indices]:
        k = min(k, len(self.bank))
        columns = min(len(self.bank), max(k, self.block // 256))
        rows = max(1, self.block // columns)
        found = [self._search_rows(part, k, columns) for part in queries.to(self.bank).split(rows)]
        if not found:
            return queries.new_empty(0, k), torch.empty(0, k, dtype=torch.long, device=queries.device)
        return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])

    def _search_rows(self, queries: Tensor, k: int, columns: int) -> tuple[Tensor, Tensor]:
        best = queries.new_empty(len(queries), 0)
        where = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
        for start in range(0, len(self.bank), columns):
            similarity = queries @ self.bank[start : start + columns].T
            found, rows = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, where = torch.cat([best, found], dim=1), torch.cat([where, rows + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        return best, where

    def vectors(self, rows: Tensor) -> Tensor:
        return self.bank[rows]
