"""What searches vectors: exactly, or approximately with exact re-ranking; chosen by name or by size."""

from mi_callback.retrieval.engines.choosing import EXACT_MOST, build_index, checked_backend
from mi_callback.retrieval.engines.exact import TorchIndex
from mi_callback.retrieval.engines.faiss_flat import FaissIndex
from mi_callback.retrieval.engines.protocol import Backend, Index
from mi_callback.retrieval.engines.reranked import RerankedIndex, recall_of

__all__ = [
    "EXACT_MOST",
    "Backend",
    "FaissIndex",
    "Index",
    "RerankedIndex",
    "TorchIndex",
    "build_index",
    "checked_backend",
    "recall_of",
]
