"""Tensors that grow: what is appended comes back, whether it lies in memory or in a file, and nothing stays behind."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
import torch

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.retrieval import growing
from mi_callback.retrieval.growing import GrowingTensor, blocks_of, gather, joined, taken

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def values(n: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (255 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))).to(dtype)


# Definition


@pytest.mark.parametrize("large", [0, 1, 60, 200, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("sizes", [[1], [3, 1, 5], [0, 4], [7, 0, 2], [0], [30, 1, 1, 40]])
def test_rows_come_back_in_order(folder, sizes, dtype, large):
    parts = [values(n, 2, 3, dtype=dtype) for n in sizes]
    grown = GrowingTensor((2, 3), dtype, large=large)
    for part in parts:
        grown.append(part)
    found = grown.tensor()
    assert len(grown) == len(found) == sum(sizes)
    assert found.dtype == dtype
    assert torch.equal(found, torch.cat(parts))


def test_memory_from_the_system_holds_the_same_rows():
    parts = [values(n, 1000) for n in (80, 300, 1)]  # beyond OWN_PAGES
    assert torch.equal(gather(parts), torch.cat(parts))
    assert torch.equal(gather(parts, expected=381), torch.cat(parts))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("block", [1, 40, 2**20])
@pytest.mark.parametrize("large", [0, 2**20])
def test_joined_and_taken_are_cat_and_index_select(folder, monkeypatch, dim, block, large):
    monkeypatch.setattr(growing, "BLOCK", block)
    monkeypatch.setattr(growing, "LARGE", large)
    one, other = values(4, 4, 3), values(4, 4, 3) + 1
    rows = torch.tensor([2, 0, 0, 3])
    assert torch.equal(joined([one, other], dim), torch.cat([one, other], dim))
    assert torch.equal(taken(one, rows, dim), one.index_select(dim, rows))
    assert taken(one, rows[:0], dim).shape == one.index_select(dim, rows[:0]).shape


@pytest.mark.parametrize("n", [0, 1, 7, 64])
def test_blocks_cover_all_rows_once(monkeypatch, n):
    monkeypatch.setattr(growing, "BLOCK", 50)
    covered = [row for rows in blocks_of(n, 10) for row in range(n)[rows]]
    assert covered == list(range(n))


# Promise


def test_a_large_tensor_has_no_name_on_the_disk_and_is_its_owners_alone(folder):
    grown = GrowingTensor((10,), torch.float32, large=0)
    grown.append(values(5, 10))
    assert stat.S_IMODE(os.fstat(grown._file.fileno()).st_mode) == 0o600
    mapped = grown.tensor()
    del grown
    assert list(folder.iterdir()) == []
    assert torch.equal(mapped, values(5, 10))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_lies_in_a_file_takes_no_memory_of_its_own(folder):
    def own() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, grown = own(), GrowingTensor((2**18,), torch.uint8, large=2**20)
    for k in range(256):
        grown.append(torch.full((1, 2**18), k, dtype=torch.uint8))
    assert grown.tensor()[:, 0].tolist() == list(range(256))
    assert own() - before < 16 * 1024  # KiB, of 64 MiB


def test_a_detector_of_files_scores_as_one_of_memory(folder, monkeypatch, generator):
    train, held_out, generated = (torch.rand(n, 1, 16, 16, generator=generator) for n in (30, 20, 8))

    def scores(null: str):
        encoder = build_encoder("pixels", sides=(4, 8), size=16)
        return MemorizationDetector(encoder, verify=False, null=null).fit(train, held_out=held_out).score(generated)

    expected = {null: scores(null) for null in ("held_out", "cross_fit")}
    monkeypatch.setattr(growing, "LARGE", 300)
    monkeypatch.setattr(growing, "BLOCK", 2000)
    for null, of_memory in expected.items():
        of_files = scores(null)
        assert torch.allclose(of_files.mi, of_memory.mi, atol=1e-4)
        assert torch.equal(of_files.match, of_memory.match)
        assert torch.equal(of_files.p_value, of_memory.p_value)
    assert list(folder.iterdir()) == []


# Refusal


def test_a_full_disk_loses_nothing_and_is_told(folder, monkeypatch):
    write, calls = growing._write, []

    def writes_twice(file, rows):
        calls.append(len(rows))
        if len(calls) > 2:
            file.write(b"cut")
            raise FULL
        write(file, rows)

    monkeypatch.setattr(growing, "_write", writes_twice)
    grown, parts = GrowingTensor((4,), torch.float32, large=20), [values(n, 4) for n in (1, 3, 2, 5)]
    grown.append(parts[0])
    grown.append(parts[1])
    with pytest.warns(UserWarning, match="No space left on device"):
        grown.append(parts[2])
    grown.append(parts[3])
    assert calls == [1, 3, 2]
    assert torch.equal(grown.tensor(), torch.cat(parts))


def test_a_folder_that_takes_no_files_is_told(folder, monkeypatch):
    folder.rmdir()
    grown = GrowingTensor((4,), torch.float32, large=0)
    with pytest.warns(UserWarning, match="set TMPDIR"):
        grown.append(values(3, 4))
    grown.append(values(2, 4))
    assert torch.equal(grown.tensor(), torch.cat([values(3, 4), values(2, 4)]))
