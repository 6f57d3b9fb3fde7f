"""Approximate search by FAISS: vectors in lists about their centres, in short codes; near lists are looked through."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_callback.retrieval.engines.exact import TorchIndex
from mi_callback.retrieval.engines.faiss_flat import gpus, imported_faiss, on_gpus
from mi_callback.retrieval.engines.protocol import SHORTLISTED
from mi_callback.retrieval.growing import GrowingTensor, blocks_of
from mi_callback.types import Indices

PER_LIST = 64
"""Vectors from which a centre is learned."""

TUNED = 64
"""Perturbed training vectors by which it is found how many lists to look through, and neighbours of each."""

ENOUGH = 0.99
"""Share of the neighbours that must be found."""

CODES = "RaBitQ", "RaBitQ4", "SQfp16"
"""RaBitQ with a bit and with four bits a number, and half precision: the shortest first. On 450 000 windows of 50 000
images, mixed of 64, they take 60, 198 and 684 bytes a window; the first find enough only where all lists are looked
through, the others in 8 of 512."""

MOST_LISTS = 1 / 8
"""Share of the lists that are looked through at most, where longer codes are left to be tried."""

GPU_MOST = 2048
"""Neighbours that FAISS gives on a GPU, at most."""


class FaissLists:
    """√n lists of the shortest `CODES` with which enough neighbours are found.

    As many lists are looked through as it takes to find `ENOUGH` of the neighbours of perturbed training vectors. GPUs
    have half precision alone, FAISS before 1.11 too.

    They are held as the bytes that FAISS writes, which may be mapped from a file: memory is taken by what is looked
    through.

    Args:
        bank: Unit vectors `(m, d)`.
        kept: `kept` of lists of these vectors. They are built where that is None, or FAISS cannot read it.

    Attributes:
        kept: The lists as bytes, uint8 `(b,)`; None on GPUs.

    Measured on 200 000 clustered vectors of 128, one thread: built in 18 s, .35 ms a query where exact search takes
    4.8 ms; all of the 70 nearest are among 280.

    Raises:
        StateError: If FAISS is not installed.

    References:
        Gao and Long, "RaBitQ: quantizing high-dimensional vectors with a theoretical error bound", SIGMOD 2024.
    """

    name = "faiss"
    index: Any

    def __init__(self, bank: Tensor, kept: Tensor | None = None) -> None:
        self.most, self.kept = len(bank), kept
        if gpus() > 0:
            self._choose(bank)
            self.most, self.kept, self.index = GPU_MOST, None, on_gpus(self.index)
            return
        self.index = None if kept is None else _read(kept)
        if self.index is None:
            self._choose(bank)
            self.kept = _written(self.index)
            self.index = _read(self.kept)

    def rows(self, queries: Tensor, k: int) -> Indices:
        _, rows = self.index.search(_array(queries), min(k, self.most))
        return torch.from_numpy(rows).to(queries.device)

    def _choose(self, bank: Tensor) -> None:
        """Build lists of the shortest codes that find enough."""
        order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))
        lists = _Lists.learned(bank, order)
        for codes in filter(_known, CODES if gpus() == 0 else CODES[-1:]):
            self.index = lists.filled(bank, order, codes)
            most = 1.0 if codes == CODES[-1] else MOST_LISTS
            if self._tuned(bank, bank[order[:TUNED]], most):
                break

    def _tuned(self, bank: Tensor, vectors: Tensor, most: float) -> bool:
        """Look through as many lists as it takes, at most this share; whether that is enough."""
        noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).to(vectors)
        normalize = torch.nn.functional.normalize
        queries = normalize(vectors + normalize(noise, dim=1) / 2, dim=1)
        k = min(TUNED, len(bank))
        _, nearest = TorchIndex(bank).search(queries, k)
        lists = self.index.nlist
        for probes in sorted({*(2**power for power in range(3, lists.bit_length())), lists}):
            if probes > max(8, most * lists):
                break
            self.index.nprobe = probes
            found = self.rows(queries, SHORTLISTED * k)
            if (nearest[:, :, None] == found[:, None]).any(dim=2).double().mean() >= ENOUGH:
                return True
        return False


@dataclass(frozen=True)
class _Lists:
    """√n lists of n vectors.

    Attributes:
        centres: Of the lists.
        places: List of each vector.
    """

    centres: Any
    places: Any

    @classmethod
    def learned(cls, bank: Tensor, order: Tensor) -> "_Lists":
        """About the centres of clusters of the first vectors in this order."""
        n = 2 ** round(math.log2(math.sqrt(len(bank))))
        index = _empty(bank, n, "Flat")
        index.train(_array(bank[order[: PER_LIST * n]]))
        places = [index.quantizer.assign(_array(bank[rows]), 1) for rows in _blocks(bank)]
        return cls(index.quantizer.reconstruct_n(0, n), np.concatenate(places).ravel())

    def filled(self, bank: Tensor, order: Tensor, codes: str) -> Any:
        """An index of all vectors in such codes."""
        point, index = imported_faiss().swig_ptr, _empty(bank, len(self.centres), codes)
        index.quantizer.add(self.centres)
        index.train(_array(bank[order[: PER_LIST * len(self.centres)]]))
        for rows in _blocks(bank):
            vectors, ids = _array(bank[rows]), np.arange(rows.start, rows.stop)
            index.add_core(len(ids), point(vectors), point(ids), point(self.places[rows]))
        return index


def _empty(bank: Tensor, lists: int, codes: str) -> Any:
    faiss = imported_faiss()
    return faiss.index_factory(bank.shape[1], f"IVF{lists},{codes}", faiss.METRIC_INNER_PRODUCT)


def _blocks(bank: Tensor) -> Iterator[slice]:
    return blocks_of(len(bank), 4 * bank.shape[1])


def _known(codes: str) -> bool:
    """Whether this FAISS has such codes."""
    try:
        imported_faiss().index_factory(8, f"IVF1,{codes}")
    except RuntimeError:
        return False
    return True


def _written(index: Any) -> Tensor:
    """Lists as bytes."""
    faiss, grown = imported_faiss(), GrowingTensor((), torch.uint8)

    def append(some: bytes) -> None:
        grown.append(torch.from_numpy(np.frombuffer(bytearray(some), np.uint8)))

    faiss.write_index(index, faiss.PyCallbackIOWriter(append))
    return grown.tensor()


def _read(kept: Tensor) -> Any:
    """Lists of these bytes, which have to stay; None where this FAISS cannot read them."""
    faiss, written = imported_faiss(), kept.numpy()
    try:
        if not hasattr(faiss, "ZeroCopyIOReader"):
            return faiss.deserialize_index(written)
        return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(written), len(written)))
    except RuntimeError:
        return None


def _array(vectors: Tensor) -> Any:
    return vectors.detach().cpu().float().contiguous().numpy()
