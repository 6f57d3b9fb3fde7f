"""Exact search by FAISS, on the GPU when there is one."""

from typing import Any

import torch
from torch import Tensor

from mi_callback.errors import StateError
from mi_callback.types import Indices


def imported_faiss() -> Any:
    """The module of faiss-cpu or faiss-gpu, whichever is installed.

    Raises:
        StateError: If neither is.
    """
    try:
        import faiss
    except ImportError as error:
        raise StateError(
            "needed FAISS for backend='faiss'; it is not installed. pip install 'mi-callback[faiss]' (CPU) or "
            "'mi-callback[gpu]' (CUDA), never both; or use backend='torch'."
        ) from error
    return faiss


def gpus() -> int:
    """How many GPUs FAISS can use: none where faiss-cpu is installed."""
    return getattr(imported_faiss(), "get_num_gpus", lambda: 0)()


def on_gpus(index: Any) -> Any:
    """The index on all GPUs, or where there is none, as it is."""
    return imported_faiss().index_cpu_to_all_gpus(index) if gpus() > 0 else index


class FaissIndex:
    """`IndexFlatIP` of faiss-cpu or faiss-gpu, whichever is installed; on the GPU when there is one.

    Raises:
        StateError: If neither is installed.
    """

    approximate = kept = None

    def __init__(self, bank: Tensor) -> None:
        faiss = imported_faiss()
        self.device = bank.device
        self.index = faiss.IndexFlatIP(bank.shape[1])
        self.index.add(bank.detach().cpu().numpy())
        self.searcher = on_gpus(self.index)

    def __len__(self) -> int:
        return self.index.ntotal

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Indices]:
        similarity, rows = self.searcher.search(queries.detach().cpu().float().numpy(), min(k, len(self)))
        return torch.from_numpy(similarity).to(self.device), torch.from_numpy(rows).to(self.device)

    def vectors(self, rows: Tensor) -> Tensor:
        found = self.index.reconstruct_batch(rows.flatten().cpu().numpy())
        return torch.from_numpy(found).to(self.device).reshape(*rows.shape, -1)
