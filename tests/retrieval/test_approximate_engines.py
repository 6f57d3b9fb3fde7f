"""Approximate engines: what they find is compared exactly, how much they find is measured and told, nothing stays."""

import copy
import gc
import os
import pickle
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.errors import StateError
from mi_callback.images.poses import orbit
from mi_callback.retrieval.engines import (
    RerankedIndex,
    TorchIndex,
    build_index,
    checked_backend,
    choosing,
    faiss_lists,
    milvus,
    recall_of,
    reranked,
)
from mi_callback.retrieval.extraction import extract
from mi_callback.retrieval.recall import measured_recall
from mi_callback.retrieval.reference import Reference
from mi_callback.statistics.verdict import Verdict

ENGINES = ["faiss", "milvus"]
MODULES = {"faiss": "faiss", "milvus": "milvus_lite"}


def clustered(n: int, d: int, seed: int) -> Tensor:
    """Unit vectors in 20 clusters, the same for all seeds."""
    centres = torch.randn(20, d, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    vectors = centres[torch.randint(20, (n,), generator=generator)] + 0.7 * torch.randn(n, d, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request) -> str:
    pytest.importorskip(MODULES[request.param], reason=f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def bank() -> Tensor:
    return clustered(2000, 16, 1)


@pytest.fixture(scope="module")
def index(engine, bank) -> RerankedIndex:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(choosing, "EXACT_MOST", 1000)
        patched.setattr(reranked, "FEWEST", 40)
        return build_index(bank, engine)


class Listed:
    """A shortlist that was written down."""

    name, kept = "listed", None

    def __init__(self, rows: list[list[int]]) -> None:
        self.listed = torch.tensor(rows)

    def rows(self, queries: Tensor, k: int) -> Tensor:
        return self.listed[: len(queries)]


class Half:
    """Finds rows of the first half alone."""

    name, kept = "half", None

    def __init__(self, bank: Tensor, kept: None = None) -> None:
        self.first = TorchIndex(bank[: max(1, len(bank) // 2)])

    def rows(self, queries: Tensor, k: int) -> Tensor:
        return self.first.search(queries, k)[1]


# Definition


def test_a_shortlist_is_ranked_by_its_exact_similarities(bank):
    queries, rows = clustered(2, 16, 2), [[5, 900, 17, -1, 3], [1, 2, 3, 4, -1]]
    similarity, found = RerankedIndex(bank, lambda _: Listed(rows)).search(queries, 3)
    for i, listed in enumerate(rows):
        products = {row: float(queries[i].double() @ bank[row].double()) for row in listed if row >= 0}
        expected = sorted(products, key=lambda row: -products[row])[:3]
        assert found[i].tolist() == expected
        assert similarity[i].tolist() == pytest.approx([products[row] for row in expected], abs=1e-6)


def test_who_has_too_short_a_list_is_searched_exactly(bank):
    queries = clustered(2, 16, 2)
    found = RerankedIndex(bank, lambda _: Listed([[5, -1], [7, 9]])).search(queries, 3)
    for ours, exact in zip(found, TorchIndex(bank).search(queries, 3), strict=True):
        assert torch.allclose(ours.double(), exact.double(), atol=1e-6)


def test_recall_is_the_share_of_the_nearest_that_are_found(bank):
    index, queries = RerankedIndex(bank, Half), clustered(30, 16, 3)
    nearest = (queries @ bank.T).argsort(dim=1, descending=True)[:, :10]
    expected = sum(row < 1000 for rows in nearest.tolist() for row in rows) / 300
    assert recall_of(index, queries, 10) == pytest.approx(expected)
    assert 0.3 < expected < 0.7


def test_equally_near_vectors_count_as_each_other():
    twice = torch.cat([clustered(50, 8, 1)] * 2)
    assert recall_of(RerankedIndex(twice, Half), clustered(9, 8, 2), 1) == 1


# Promise


def test_an_engine_finds_the_nearest_and_their_exact_similarities(index, engine, bank):
    queries = clustered(40, 16, 2)
    assert index.approximate == engine
    assert recall_of(index, queries, 10) > 0.97
    similarity, rows = index.search(queries, 10)
    assert torch.allclose(similarity, (queries @ bank.T).gather(1, rows), atol=1e-6)
    assert (similarity.diff(dim=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())
    assert torch.equal(index.vectors(rows[:2]), bank[rows[:2]])


def test_blocks_edges_and_copies_are_searched_alike(index, bank, monkeypatch):
    queries = clustered(7, 16, 2)
    similarity, rows = index.search(queries, 3)
    assert index.search(queries[:0], 3)[1].shape == (0, 3)
    monkeypatch.setattr(reranked, "AT_ONCE", 1)
    assert torch.equal(index.search(queries, 3)[1], rows)
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert torch.allclose(other.search(queries, 3)[0], similarity, atol=1e-6)


def test_lists_are_made_again_of_what_they_kept(bank, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(choosing, "EXACT_MOST", 1000)
    first, queries = build_index(bank, "faiss"), clustered(40, 16, 2)
    with monkeypatch.context() as patched:
        patched.setattr(faiss_lists, "_Lists", None)  # nothing is built
        second = build_index(bank, "faiss", first.kept)
        again = pickle.loads(pickle.dumps(first))
    for other in (second, again):
        assert torch.equal(other.engine.rows(queries, 20), first.engine.rows(queries, 20))
        assert torch.equal(other.kept, first.kept)


@pytest.mark.parametrize("cut", [0, 10, -1000])
def test_lists_that_cannot_be_read_are_built(bank, monkeypatch, cut):
    pytest.importorskip("faiss")
    monkeypatch.setattr(choosing, "EXACT_MOST", 1000)
    first, queries = build_index(bank, "faiss"), clustered(40, 16, 2)
    second = build_index(bank, "faiss", first.kept[:cut].clone())
    assert torch.equal(second.search(queries, 20)[1], first.search(queries, 20)[1])
    assert torch.equal(second.kept, first.kept)


@pytest.mark.parametrize("n", [900, 1001])
def test_exact_search_keeps_nothing(bank, monkeypatch, n):
    monkeypatch.setattr(choosing, "EXACT_MOST", 1000)
    assert build_index(bank[:n], "torch").kept is None


@pytest.mark.parametrize(("backend", "n", "approximate"), [
    ("auto", 1000, None), ("auto", 1001, "faiss"), ("torch", 1001, None), ("faiss", 1000, None),
    ("faiss", 1001, "faiss"),
])  # fmt: skip
def test_size_decides_where_no_engine_is_named(bank, monkeypatch, backend, n, approximate):
    pytest.importorskip("faiss")
    monkeypatch.setattr(choosing, "EXACT_MOST", 1000)
    assert build_index(bank[:n], backend).approximate == approximate


def test_without_faiss_all_is_searched_exactly(bank, monkeypatch):
    monkeypatch.setattr(choosing, "EXACT_MOST", 1000)
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    assert build_index(bank, "auto").approximate is None


def test_a_collection_goes_with_its_index_and_its_folder_is_its_owners_alone():
    pytest.importorskip("milvus_lite")
    client = milvus._client(None)
    gc.collect()
    before = set(client.list_collections())
    index = build_index(clustered(20, 4, 1), "milvus")
    assert set(client.list_collections()) - before == {index.engine.collection}
    (folder,) = Path(tempfile.gettempdir()).glob(f"{milvus.FOLDER}{os.getpid()}_*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    del index
    gc.collect()
    assert set(client.list_collections()) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
def test_what_a_killed_process_left_behind_is_swept_and_what_others_use_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [f"{milvus.FOLDER}{process}_x" for process in (os.getpid(), 2**22 + 1)] + ["else"]
    for name in names:
        (tmp_path / name).mkdir()
    milvus._sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], "else"])


@pytest.fixture
def people(generator):
    train, held_out, generated = (torch.rand(n, 1, 16, 16, generator=generator) for n in (60, 25, 12))
    return train, held_out, torch.cat([train[:3], generated])


def detector(backend: str, **options) -> MemorizationDetector:
    encoder = build_encoder("pixels", sides=(2, 4), size=16)
    return MemorizationDetector(encoder, backend=backend, verify=False, **options)


def test_recall_is_measured_told_kept_and_the_null_is_of_the_same_engine(engine, people, tmp_path, monkeypatch):
    train, held_out, generated = people
    exact = detector("torch").fit(train, held_out=held_out).score(generated)
    assert exact.recall is None
    assert "retrieval_recall" not in exact.summary()
    monkeypatch.setattr(choosing, "EXACT_MOST", 10)
    fitted = detector(engine).fit(train, held_out=held_out)
    scores = fitted.score(generated)
    assert scores.summary()["retrieval_recall"] == scores.recall == fitted.state.recall == 1  # 280 of 60 are compared
    assert any("100.0% of the nearest training images are found" in note for note in scores.notes)
    assert torch.allclose(fitted.null.similarity, detector("torch").fit(train, held_out=held_out).null.similarity)
    assert torch.allclose(scores.mi, exact.mi, atol=1e-4)
    fitted.save(tmp_path / "state")
    assert detector(engine).load(tmp_path / "state").score(generated).recall == 1
    with pytest.raises(StateError, match=rf"needed the engine .*{engine}.*; exact search came"):
        detector("torch").load(tmp_path / "state")


def test_an_engine_that_misses_much_never_reads_as_clean(people, monkeypatch):
    train, held_out, generated = people
    monkeypatch.setattr(choosing, "FaissLists", Half)
    monkeypatch.setattr(choosing, "EXACT_MOST", 20)
    scores = detector("faiss", candidates=1).fit(train, held_out=held_out).score(generated[3:])
    assert scores.recall < 0.9
    assert any("choose backend='torch'" in doubt for doubt in scores.doubts)
    assert scores.verdict != Verdict.CLEAN


@pytest.mark.parametrize("null", ["held_out", "cross_fit"])
def test_recall_is_that_of_the_worst_index(people, monkeypatch, null):
    encoder = build_encoder("pixels", sides=(2, 4), size=16)
    features = {
        name: extract(images, encoder, orbit("flips", 2)) for name, images in zip(("t", "h"), people, strict=False)
    }
    monkeypatch.setattr(choosing, "FaissLists", Half)
    monkeypatch.setattr(choosing, "EXACT_MOST", 20)
    reference, images = Reference.fit(features["t"], "shrunk", "faiss"), features["h" if null == "held_out" else "t"]
    found = measured_recall(reference, images, candidates=4)
    each = []
    for layer in reference.layers:
        queries = reference.whitenings[layer](images.layers[layer][-1])
        exact, _ = TorchIndex(reference.indexes[layer].bank).search(queries, 8)
        near, _ = reference.indexes[layer].search(queries, 8)
        each.append(
            sum(float(a) >= float(b[-1]) - 1e-6 for row, b in zip(near, exact, strict=True) for a in row) / near.numel()
        )
    assert found == pytest.approx(min(each))
    assert measured_recall(Reference.fit(features["t"], "shrunk", "torch"), images, 4) is None


# Refusal


def test_milvus_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StateError, match=r"pip install 'mi-callback\[milvus\]'"):
        build_index(clustered(3, 2, 0), "milvus")


@pytest.mark.parametrize("backend", ["milvus:", "faiss:http://here", 3, None, "Milvus"])
def test_what_is_no_engine_is_refused(backend):
    with pytest.raises(StateError, match="needed backend out of"):
        checked_backend(backend)
