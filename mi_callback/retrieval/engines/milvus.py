"""Search by Milvus: embedded in this process, with its data in a private folder, or a cluster."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from mi_callback.errors import StateError
from mi_callback.retrieval.growing import blocks_of
from mi_callback.types import Indices

FOLDER = "mi_callback_milvus_"
"""Begin of the names of folders with data of embedded engines; the number of the process follows."""

TOKEN = "MILVUS_TOKEN"
"""Variable of the environment with the token, or `user:password`, of a cluster."""

AT_ONCE, MOST = 256, 16384
"""Queries of one request, and neighbours that Milvus gives at most."""


class Milvus:
    """A collection of Milvus, which is dropped with this object.

    Args:
        bank: Unit vectors `(m, d)`.
        address: Of a cluster, such as `http://host:19530`; the embedded engine when None.

    Raises:
        StateError: If pymilvus is not installed, or the cluster does not answer.
    """

    name, kept = "milvus", None

    def __init__(self, bank: Tensor, address: str | None = None) -> None:
        with _told(address):
            self.client, self.collection = _client(address), f"mi_callback_{uuid4().hex}"
            self._create(bank.shape[1])
            dropped = weakref.finalize(self, _drop, self.client, self.collection)
            dropped.atexit = address is not None  # the embedded engine ends first, and its folder goes
            for rows in blocks_of(len(bank), 4 * bank.shape[1]):
                vectors = bank[rows].detach().cpu().float().numpy()
                found = [{"row": rows.start + i, "vector": vector} for i, vector in enumerate(vectors)]
                self.client.insert(self.collection, found)
            self.client.flush(self.collection)
            index = self.client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
            # The embedded engine has its index at once, and none of the clock by which a cluster is waited for.
            self.client.create_index(self.collection, index, sync=address is not None)
            self.client.load_collection(self.collection)

    def rows(self, queries: Tensor, k: int) -> Indices:
        k = min(k, MOST)
        found = torch.full((len(queries), k), -1)
        for start in range(0, len(queries), AT_ONCE):
            some = queries[start : start + AT_ONCE].detach().cpu().float().numpy()
            hits = self.client.search(
                self.collection, data=list(some), limit=k, output_fields=["row"], consistency_level="Strong"
            )
            for i, near in enumerate(hits, start):
                found[i, : len(near)] = torch.tensor([hit["row"] for hit in near], dtype=torch.long)
        return found.to(queries.device)

    def _create(self, d: int) -> None:
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=d)
        self.client.create_collection(self.collection, schema=schema)


@contextmanager
def _told(address: str | None) -> Iterator[None]:
    """What goes wrong, and what to do about it."""
    try:
        from pymilvus import MilvusException
    except ImportError as error:
        raise StateError(
            "needed pymilvus for backend='milvus'; it is not installed. pip install 'mi-callback[milvus]'; or use "
            "backend='torch'."
        ) from error
    try:
        yield
    except MilvusException as error:
        where = "the embedded Milvus" if address is None else f"the Milvus that backend='milvus:…' and {TOKEN} name"
        raise StateError(f"needed {where}; it does not answer ({error.message}). Is it running?") from error


@lru_cache
def _client(address: str | None) -> Any:
    """One connection per address and process."""
    from pymilvus import MilvusClient

    if address is not None:
        return MilvusClient(address, token=os.environ.get(TOKEN, ""))
    _sweep()
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}_")  # 0700
    client = MilvusClient(str(Path(folder) / "features.db"))
    weakref.finalize(client, shutil.rmtree, folder, ignore_errors=True)
    return client


def _drop(client: Any, collection: str) -> None:
    with suppress(Exception):  # the connection may be gone at the end of the process
        client.drop_collection(collection)


def _sweep() -> None:
    """Remove what embedded engines of processes that were killed left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        process = folder.name.removeprefix(FOLDER).split("_")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)
