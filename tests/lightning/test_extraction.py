"""Features of a data set, made by a job of several processes: those of one, also after a kill."""

import datetime
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import lightning.pytorch as lp
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import IterableDataset
from watching import HELD_OUT, TRAIN, Augmented, Slices, images, options

from mi_callback import MemorizationDetector
from mi_callback.errors import DataError, StateError
from mi_callback.lightning.extraction import FeatureExtraction

IDS = [f"p{i // 2:02}" for i in range(24)]
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def detector() -> MemorizationDetector:
    return MemorizationDetector(**options(batch_size=4))


class Watched(Slices):
    """Writes down which rows are read, and may die at one of them."""

    def __init__(self, n: int, log: Path, fatal: int = -1) -> None:
        super().__init__(TRAIN[:n], IDS[:n])
        self.log, self.fatal, self.counts = log, fatal, False

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.counts:
            with self.log.open("a") as log:
                log.write(f"{i}\n")
            if i == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


def job(folder: Path, data: Any, shard: int = 8, **further: Any) -> FeatureExtraction:
    return FeatureExtraction(detector(), data, folder, shard=shard, **further)


def extract(folder: Path, n: int, shard: int = 8, fatal: int = -1, **trainer: Any) -> None:
    data = Watched(n, folder / "read", fatal)
    made = job(folder / "shards", data, shard)
    made.key(0)  # looks at some images
    data.counts = True
    lp.Trainer(accelerator="cpu", **QUIET, **trainer).predict(made, return_predictions=False)


def one_of_two(rank: int, port: int, *what: Any) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({key: str(value) for key, value in told.items()})
    strategy = DDPStrategy(process_group_backend="gloo", timeout=datetime.timedelta(seconds=60))
    extract(*what, devices=2, strategy=strategy)


def extract_in_two(folder: Path, n: int, shard: int = 8, fatal: int = -1) -> list[int | None]:
    """Run the job in two processes; how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=one_of_two, args=(rank, port, folder, n, shard, fatal)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def check_whole(folder: Path, n: int, shard: int = 8) -> None:
    """What was extracted is, to the last bit, what one process makes, and finds the same."""
    found, planted = job(folder / "shards", Slices(TRAIN[:n], IDS[:n]), shard).merged()
    made = detector()
    expected = made.fit(Slices(TRAIN[:n], IDS[:n]), held_out=HELD_OUT).state
    assert all(torch.equal(found.layers[layer], expected.train.layers[layer]) for layer in found.layers)
    assert torch.equal(found.thumbnails, expected.train.thumbnails)
    assert found.subjects == expected.train.subjects
    assert planted.rows == expected.planted.rows
    assert all(map(torch.equal, planted.images, expected.planted.images))
    again = detector().fit_features(found, made.features(HELD_OUT), planted)
    assert torch.equal(again.score(images(8, 5)).mi, made.score(images(8, 5)).mi)


@pytest.mark.parametrize("n", [24, 19, 7])
def test_two_processes_extract_what_one_does_with_uneven_and_empty_shares(n: int, tmp_path: Path):
    assert extract_in_two(tmp_path, n) == [0, 0]
    check_whole(tmp_path, n)


@pytest.mark.parametrize("processes", [1, 2])
def test_after_a_kill_the_job_goes_on_where_it_was(processes: int, tmp_path: Path):
    ended = extract_in_two(tmp_path, 24, 4, fatal=17)  # rank zero has read shard 2, and dies while it reads shard 4
    assert ended[0] == -signal.SIGKILL
    assert ended[1] != 0
    with pytest.raises(StateError, match=r"2 of them are missing, the first is 2\. Run the job again"):
        job(tmp_path / "shards", Slices(TRAIN, IDS), 4).merged()
    (tmp_path / "read").unlink()
    if processes == 2:
        assert extract_in_two(tmp_path, 24, 4) == [0, 0]
    else:
        extract(tmp_path, 24, 4)
    assert sorted(map(int, (tmp_path / "read").read_text().split())) == [8, 9, 10, 11, 16, 17, 18, 19]
    check_whole(tmp_path, 24, 4)


def test_other_images_and_other_settings_are_other_shards(tmp_path: Path):
    extract(tmp_path, 24)
    for other in (job(tmp_path / "shards", Slices(images(24, 9), IDS)), job(tmp_path / "shards", Slices(TRAIN))):
        with pytest.raises(StateError, match="3 of them are missing"):
            other.merged()
    turned = MemorizationDetector(**options(batch_size=4, poses="dihedral"))
    with pytest.raises(StateError, match="3 of them are missing"):
        FeatureExtraction(turned, Slices(TRAIN, IDS), tmp_path / "shards", shard=8).merged()


def test_held_out_images_are_extracted_in_all_poses_and_shards_are_their_owners_alone(tmp_path: Path):
    held_out = job(tmp_path, Slices(HELD_OUT), held_out=True, num_workers=2)
    lp.Trainer(accelerator="cpu", devices=1, **QUIET).predict(held_out, return_predictions=False)
    found, planted = held_out.merged()
    expected = detector().features(HELD_OUT)
    assert planted is None
    assert all(torch.equal(found.layers[layer], expected.layers[layer]) for layer in expected.layers)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_damaged_shard_is_refused(tmp_path: Path):
    extract(tmp_path, 24)
    shard = sorted((tmp_path / "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StateError, match="needed shard 1 whole; its file is damaged"):
        job(tmp_path / "shards", Slices(TRAIN, IDS)).merged()


def test_data_that_cannot_be_cut_into_shards_are_refused(tmp_path: Path):
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(TRAIN)

    with pytest.raises(DataError, match="needed a data set with positions and a length; a Stream came"):
        job(tmp_path, Stream())
    with pytest.raises(DataError, match="without augmentation"):
        job(tmp_path, Augmented(TRAIN, lambda: float(torch.rand(()))))


def test_a_broken_image_is_named(tmp_path: Path):
    broken = torch.where(torch.arange(24).view(-1, 1, 1, 1) == 13, float("nan"), TRAIN)
    with pytest.raises(DataError, match=r"in the batch that begins at image 12: needed finite pixels"):
        lp.Trainer(accelerator="cpu", devices=1, **QUIET).predict(job(tmp_path, Slices(broken)))
