"""Which engine searches: the one that was named, or one that suits the number of vectors."""

from functools import partial
from importlib.util import find_spec

from torch import Tensor

from mi_callback.errors import StateError, choice
from mi_callback.retrieval.engines.exact import TorchIndex
from mi_callback.retrieval.engines.faiss_flat import FaissIndex
from mi_callback.retrieval.engines.faiss_lists import FaissLists
from mi_callback.retrieval.engines.milvus import Milvus
from mi_callback.retrieval.engines.protocol import Backend, Index
from mi_callback.retrieval.engines.reranked import RerankedIndex

EXACT_MOST = 2**18
"""Vectors up to which `auto` and `faiss` search exactly: windows of 29 000 images, or as many images."""

CLUSTER = f"{Backend.MILVUS}:"


def checked_backend(backend: object) -> Backend | str:
    """The engine that a user asked for: a `Backend`, or `milvus:` and the address of a cluster.

    Raises:
        StateError: If it is none of these.

    Example:
        >>> checked_backend("faiss"), checked_backend("milvus:http://localhost:19530")
        (<Backend.FAISS: 'faiss'>, 'milvus:http://localhost:19530')
    """
    if isinstance(backend, str) and backend.startswith(CLUSTER) and backend != CLUSTER:
        return str(backend)
    named: Backend = choice("backend", backend, Backend, StateError)
    return named


def build_index(bank: Tensor, backend: Backend | str = Backend.AUTO, kept: Tensor | None = None) -> Index:
    """Index over unit vectors `(m, d)`.

    Args:
        bank: The vectors; may be mapped from a file.
        backend: `torch` is exact. `faiss` is, up to `EXACT_MOST` vectors, beyond them `FaissLists`. `auto` is `faiss`
            beyond them, where it is installed and the vectors are not on a GPU, and else `torch`. `milvus` is the
            embedded engine, `milvus:http://host:19530` a cluster.
        kept: What such an index of these vectors had as its `kept`: spares the time to build it.

    Raises:
        StateError: If the backend is unknown, not installed, or does not answer.
    """
    backend, large = checked_backend(backend), len(bank) > EXACT_MOST
    if backend == Backend.AUTO:
        by_faiss = large and bank.device.type == "cpu" and find_spec("faiss") is not None
        backend = Backend.FAISS if by_faiss else Backend.TORCH
    if backend == Backend.TORCH:
        return TorchIndex(bank)
    if backend == Backend.FAISS:
        return RerankedIndex(bank, partial(FaissLists, kept=kept)) if large else FaissIndex(bank)
    address = None if backend == Backend.MILVUS else backend.removeprefix(CLUSTER)
    return RerankedIndex(bank, partial(Milvus, address=address))
