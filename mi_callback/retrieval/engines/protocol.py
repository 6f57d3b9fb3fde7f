"""What an engine has to do."""

from enum import StrEnum
from typing import Protocol

from torch import Tensor

from mi_callback.types import Indices

SHORTLISTED = 4
"""Vectors that are compared per neighbour that is asked for."""


class Backend(StrEnum):
    """What searches an index. Members are strings: `"faiss"` is one too."""

    AUTO = "auto"
    TORCH = "torch"
    FAISS = "faiss"
    MILVUS = "milvus"


class Index(Protocol):
    """Unit vectors `(m, d)` that can be searched."""

    @property
    def approximate(self) -> str | None:
        """Name of the engine if it may miss a vector; None if it cannot."""
        ...

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Indices]:
        """The k most similar rows: similarity `(n, k)` in descending order, and their positions `(n, k)`."""
        ...

    def vectors(self, rows: Tensor) -> Tensor:
        """Vectors at `rows` (any shape), shape `(*rows.shape, d)`."""
        ...

    @property
    def kept(self) -> Tensor | None:
        """Bytes of which `build_index` makes it again, uint8 `(b,)`; None where that is made of the vectors alone."""
        ...

    def __len__(self) -> int: ...


class Shortlist(Protocol):
    """An approximate engine: it names vectors that may be near, and somebody else looks how near they are."""

    name: str

    @property
    def kept(self) -> Tensor | None:
        """Bytes of which it is made again; None where that takes the vectors."""
        ...

    def rows(self, queries: Tensor, k: int) -> Indices:
        """About the k most similar rows in any order, `(n, k)`; −1 in the places of those that were not found."""
        ...
