"""Exact nearest neighbours by inner product, in bounded memory: torch by default, FAISS by choice."""

from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from mi_callback.errors import StateError
from mi_callback.types import Indices


class Backend(StrEnum):
    """What searches an index. Members are strings: `"faiss"` is one too."""

    AUTO = "auto"
    TORCH = "torch"
    FAISS = "faiss"


class Index(Protocol):
    """Unit vectors `(m, d)` that can be searched."""

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Indices]:
        """The k most similar rows: similarity `(n, k)` in descending order, and their positions `(n, k)`."""
        ...

    def vectors(self, rows: Tensor) -> Tensor:
        """Vectors at `rows` (any shape), shape `(*rows.shape, d)`."""
        ...

    def __len__(self) -> int: ...


class TorchIndex:
    """Blocked matrix product and top-k on any device; the (n, m) matrix never exists as a whole.

    Args:
        bank: Unit vectors `(m, d)`.
        block: Entries of the similarity matrix held at a time.
    """

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
            best = torch.cat([best, similarity], dim=1)
            positions = torch.arange(start, start + similarity.shape[1], device=queries.device)
            where = torch.cat([where, positions.expand(len(queries), -1)], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        return best, where

    def vectors(self, rows: Tensor) -> Tensor:
        return self.bank[rows]


class FaissIndex:
    """`IndexFlatIP` of faiss-cpu or faiss-gpu, whichever is installed; on the GPU when there is one.

    Raises:
        StateError: If neither is installed.
    """

    def __init__(self, bank: Tensor) -> None:
        try:
            import faiss
        except ImportError as error:
            raise StateError(
                "needed FAISS for backend='faiss'; it is not installed. pip install 'mi-callback[faiss]' (CPU) or "
                "'mi-callback[gpu]' (CUDA), never both; or use backend='torch'."
            ) from error
        self.device = bank.device
        self.index = faiss.IndexFlatIP(bank.shape[1])
        self.index.add(bank.detach().cpu().numpy())
        self.searcher: Any = self.index
        if getattr(faiss, "get_num_gpus", lambda: 0)() > 0:
            self.searcher = faiss.index_cpu_to_all_gpus(self.index)

    def __len__(self) -> int:
        return self.index.ntotal

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Indices]:
        similarity, rows = self.searcher.search(queries.detach().cpu().float().numpy(), min(k, len(self)))
        return torch.from_numpy(similarity).to(self.device), torch.from_numpy(rows).to(self.device)

    def vectors(self, rows: Tensor) -> Tensor:
        found = self.index.reconstruct_batch(rows.flatten().cpu().numpy())
        return torch.from_numpy(found).to(self.device).reshape(*rows.shape, -1)


def build_index(bank: Tensor, backend: Backend | str = Backend.AUTO) -> Index:
    """Index over unit vectors `(m, d)`. `auto` is torch: the same answers at the same speed without a dependency.

    Raises:
        StateError: If the backend is unknown or not installed.
    """
    match backend:
        case "auto" | "torch":
            return TorchIndex(bank)
        case "faiss":
            return FaissIndex(bank)
        case _:
            raise StateError(f"needed backend auto, torch or faiss; {backend!r} came.")
