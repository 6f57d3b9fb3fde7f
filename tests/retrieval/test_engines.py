"""Exact engines: blocked search equals naive search, FAISS equals torch."""

import sys

import pytest
import torch

from mi_callback.errors import StateError
from mi_callback.retrieval.engines import FaissIndex, TorchIndex, build_index

pytestmark = pytest.mark.numeric


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def naive(bank: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[list[list[float]], list[list[int]]]:
    similarity, rows = [], []
    for query in queries.double():
        products = [float(query @ vector) for vector in bank.double()]
        order = sorted(range(len(bank)), key=lambda i: -products[i])[:k]
        rows.append(order)
        similarity.append([products[i] for i in order])
    return similarity, rows


# Definition


@pytest.mark.parametrize("block", [1, 2, 7, 64, 300, 2000, 2**22])
@pytest.mark.parametrize("k", [1, 3, 41, 100])
def test_blocked_search_equals_naive_search(block, k):
    bank, queries = unit(41, 8, 0), unit(13, 8, 1)
    similarity, rows = TorchIndex(bank, block=block).search(queries, k)
    expected_similarity, expected_rows = naive(bank, queries, k)
    assert rows.tolist() == expected_rows
    assert torch.allclose(similarity.double(), torch.tensor(expected_similarity, dtype=torch.float64), atol=1e-6)


def test_a_block_narrower_than_the_bank_is_merged_across_columns():
    # 2**15 // 256 = 128 columns at a time: eight column blocks.
    bank, queries = unit(1000, 4, 0), unit(30, 4, 1)
    _, rows = TorchIndex(bank, block=2**15).search(queries, 5)
    assert rows.tolist() == naive(bank, queries, 5)[1]


@pytest.mark.parametrize("k", [1, 5, 60, 90])
def test_faiss_equals_torch(k):
    pytest.importorskip("faiss")
    bank, queries = unit(60, 16, 0), unit(9, 16, 1)
    similarity, rows = FaissIndex(bank).search(queries, k)
    expected_similarity, expected_rows = TorchIndex(bank).search(queries, k)
    assert torch.equal(rows, expected_rows)
    assert torch.allclose(similarity, expected_similarity, atol=1e-6)
    assert (similarity.dtype, rows.dtype) == (expected_similarity.dtype, expected_rows.dtype)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 1, 2)])
def test_vectors_are_the_rows_of_the_bank(backend, shape):
    if backend == "faiss":
        pytest.importorskip("faiss")
    bank = unit(20, 6, 0)
    rows = torch.randint(20, shape, generator=torch.Generator().manual_seed(1))
    found = build_index(bank, backend).vectors(rows)
    assert found.shape == (*shape, 6)
    for place in torch.cartesian_prod(*(torch.arange(side) for side in shape)).reshape(-1, len(shape)):
        place = tuple(place.tolist())
        assert torch.equal(found[place], bank[rows[place]])


# Promise


@pytest.mark.parametrize("backend", ["auto", "torch", "faiss"])
def test_a_vector_of_the_bank_finds_itself(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    bank = unit(50, 8, 0)
    index = build_index(bank, backend)
    similarity, rows = index.search(bank, 1)
    assert len(index) == 50
    assert rows[:, 0].tolist() == list(range(50))
    assert torch.allclose(similarity, torch.ones(50, 1), atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_more_neighbours_than_vectors_are_all_vectors(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    similarity, rows = build_index(unit(4, 3, 0), backend).search(unit(2, 3, 1), 10)
    assert similarity.shape == rows.shape == (2, 4)
    assert all(sorted(row) == [0, 1, 2, 3] for row in rows.tolist())
    assert (similarity.diff(dim=1) <= 0).all()


def test_a_batch_of_queries_is_searched_as_its_queries_one_by_one():
    bank, queries = unit(41, 8, 0), unit(13, 8, 1)
    index = TorchIndex(bank, block=64)
    together = index.search(queries, 4)
    alone = [index.search(query[None], 4) for query in queries]
    assert torch.equal(together[1], torch.cat([rows for _, rows in alone]))
    assert torch.allclose(together[0], torch.cat([similarity for similarity, _ in alone]), atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_no_queries_have_no_neighbours(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    similarity, rows = build_index(unit(5, 3, 0), backend).search(torch.empty(0, 3), 2)
    assert similarity.shape == rows.shape == (0, 2)


def test_duplicates_in_the_bank_are_both_found():
    bank = torch.cat([unit(5, 4, 0)] * 2)
    _, rows = TorchIndex(bank, block=3).search(bank[2][None], 2)
    assert sorted(rows[0].tolist()) == [2, 7]


# Refusal


def test_an_unknown_backend_is_refused():
    with pytest.raises(StateError, match=r"needed backend out of .*milvus.*; 'annoy' came"):
        build_index(unit(3, 2, 0), "annoy")


def test_faiss_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StateError, match=r"pip install 'mi-callback\[faiss\]'"):
        build_index(unit(3, 2, 0), "faiss")
