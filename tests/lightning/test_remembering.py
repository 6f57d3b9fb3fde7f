"""A cache is known by what data sets hold and name, and by a sample; by every pixel where these tell nothing."""

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from watching import HELD_OUT, TRAIN, callback, fit, images, loader, two

from mi_callback import MemorizationCallback, build_encoder
from mi_callback.cache import checked_cache
from mi_callback.images.perturbations import PASTES, PERTURBATIONS
from mi_callback.lightning import keeping_up
from mi_callback.lightning.data import remembering
from mi_callback.lightning.data.outlines import outline_of
from mi_callback.lightning.data.sides import Sides, Source

MANY = images(120, 5)
FEW = 40
"""Reads at the start of a run that reads no image for the cache: to tell places, randomness and what is searched."""


class Files(Dataset):
    """Slices in files of a folder, of which every read is counted."""

    read = 0

    def __init__(self, folder: Path, suffix: str = ".npy") -> None:
        self.names = sorted(str(path) for path in folder.glob(f"*{suffix}"))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict[str, Any]:
        type(self).read += 1
        return {"image": torch.from_numpy(np.load(self.names[i])), "subject": f"p{i:03d}"}


class Silent(Dataset):
    """Images that come from nowhere: neither held nor in files."""

    changed: int | None = None

    def __len__(self) -> int:
        return len(MANY)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"image": MANY[i] + 1e-4 * (i == self.changed)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Files, "read", 0)
    monkeypatch.setattr(remembering, "CHECKED", 10)
    monkeypatch.setattr(keeping_up, "SAMPLED", 8)
    (tmp_path / "slices").mkdir()
    for i, image in enumerate(MANY):
        np.save(tmp_path / "slices" / f"{i:03d}.npy", image.numpy())
    return tmp_path / "slices"


class Counted(torch.nn.Module):
    """The pixel encoder; counts what it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_encoder("pixels", sides=(4, 8), size=32)
        self.encoded = 0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        self.encoded += len(pixels)
        return self.inner(pixels)


def start(cache: Path | None, train: Any, held_out: Any = HELD_OUT, **asked: Any) -> tuple[int, MemorizationCallback]:
    """Images encoded at the start of a run, and its callback."""
    encoder = Counted()
    watch = callback(cache=cache, detector={"encoder": encoder, "verify": False, "alpha": 0.1}, **asked)
    fit(watch, train=loader(train, shuffle=True, batch_size=10), val=loader(held_out), limit_train_batches=1)
    return encoder.encoded - 4 * watch.n_samples, watch


def reads(work: Any) -> int:
    before = Files.read
    work()
    return Files.read - before


def change(path: Path, times: bool = False) -> None:
    """Another image of the same size in a file; with its time of change put back, as copying tools do."""
    before = path.stat()
    np.save(path, np.load(path) + 0.01)
    if times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# Reading -------------------------------------------------------------------------------------------------------------


def test_the_second_start_reads_a_sample_of_the_files_and_with_a_full_check_all_of_them(tmp_path: Path, folder: Path):
    first, _ = start(tmp_path / "state", Files(folder))
    assert first == 120 + 80
    trained = 10  # by the run itself
    few = reads(lambda: start(tmp_path / "state", Files(folder)))
    looks = 2 * (keeping_up.SAMPLED + 2)  # for randomness, and for changes while training
    assert few <= FEW + trained + looks + remembering.CHECKED + 2 < 120
    assert reads(lambda: start(tmp_path / "state", Files(folder), cache_check="full")) >= 120 + trained
    assert start(tmp_path / "state", Files(folder))[0] == 0


@pytest.mark.parametrize("times", [False, True])
def test_a_changed_file_is_noticed_though_it_is_in_no_sample_and_its_time_was_put_back(
    tmp_path: Path, folder: Path, times: bool
):
    start(tmp_path / "state", Files(folder))
    change(folder / "113.npy", times)
    encoded, watch = start(tmp_path / "state", Files(folder))
    assert encoded == 1 + 80
    scratch = start(None, Files(folder))[1]
    assert torch.equal(watch.detector.state.null.similarity, scratch.detector.state.null.similarity)


def test_touched_files_are_read_once_and_the_cache_is_used(tmp_path: Path, folder: Path):
    start(tmp_path / "state", Files(folder))
    for path in folder.iterdir():
        path.touch()
    again: list[int] = []
    assert reads(lambda: again.append(start(tmp_path / "state", Files(folder))[0])) >= 120
    assert again == [0]
    assert reads(lambda: start(tmp_path / "state", Files(folder))) < 120


def test_of_data_that_tell_nothing_every_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    start(tmp_path / "state", Silent())
    assert start(tmp_path / "state", Silent())[0] == 0
    monkeypatch.setattr(Silent, "changed", 113)
    monkeypatch.setattr(remembering, "CHECKED", 1)
    assert start(tmp_path / "state", Silent())[0] == 1 + 80


def test_a_sampled_image_is_compared_by_its_pixels_though_nothing_else_tells(tmp_path: Path):
    class Behind(Files):
        """Reads what no attribute names."""

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"image": TRAIN[i] + secret[i]}

    secret = np.zeros(24, np.float32)
    for i in range(24):
        (tmp_path / f"{i:02d}.dat").touch()
    globals()["secret_of"] = secret  # no closure either
    Behind.__getitem__ = lambda self, i: {"image": TRAIN[i] + globals()["secret_of"][i]}
    start(tmp_path / "state", Behind(tmp_path, ".dat"))
    assert start(tmp_path / "state", Behind(tmp_path, ".dat"))[0] == 0
    secret[13] = 0.1
    assert start(tmp_path / "state", Behind(tmp_path, ".dat"))[0] == 1 + 80


@pytest.mark.parametrize("place", ["state", "."])
def test_the_power_self_test_is_made_once_for_the_same_data_and_number(tmp_path: Path, place: str):
    copies = len([*PERTURBATIONS, *PASTES])
    first, watch = start(tmp_path / place, MANY[:60], power=2)
    assert first == 60 + 80 + 4 * 2 * copies
    again, other = start(tmp_path / place, MANY[:60], power=2)
    assert again == 0
    assert other.scores.power.table() == watch.scores.power.table()
    assert start(tmp_path / place, MANY[:60], power=1)[0] == 4 * copies
    assert start(tmp_path / place, MANY[:61], power=1)[0] == 1 + 80 + 4 * copies
    checked_cache(tmp_path / place)  # a folder holds states and what stands beside them, alone


# Appending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "place"), [("appended", "state"), ("inserted", "."), ("removed", "state"), ("doubled", "state")]
)
def test_only_new_images_are_encoded_and_the_fit_is_that_from_scratch(
    tmp_path: Path, kind: str, place: str, said: list[str]
):
    old, new = MANY[:60], MANY[60:70]
    data, encoded = {
        "appended": (torch.cat([old, new]), 10),
        "inserted": (torch.cat([new[:4], old, new[4:]]), 10),
        "removed": (torch.cat([old[:20], old[30:]]), 0),
        "doubled": (torch.cat([old, new, new[:3]]), 10),
    }[kind]
    start(tmp_path / place, old)
    found, watch = start(tmp_path / place, data)
    assert found == encoded + 80
    assert start(tmp_path / place, data)[0] == 0
    ours, theirs = (one.detector.state for one in (watch, start(None, data)[1]))
    assert torch.equal(ours.train.thumbnails, theirs.train.thumbnails)
    torch.testing.assert_close(ours.train.layers, theirs.train.layers)
    torch.testing.assert_close(ours.null.similarity, theirs.null.similarity)
    assert ours.planted.rows == theirs.planted.rows
    assert all(torch.equal(a, b) for a, b in zip(ours.planted.images, theirs.planted.images, strict=True))
    assert any("were encoded before, and are read from the cache" in line for line in said)


def test_held_out_images_of_the_user_in_memory_are_known_again(tmp_path: Path):
    assert start(tmp_path / "state", MANY[:60])[0] == 60 + 80
    for changed, encoded in ((HELD_OUT, 0), (HELD_OUT + 0.1, 80)):
        watch = callback(cache=tmp_path / "state", held_out=changed, detector={"encoder": (seen := Counted()),
                         "verify": False, "alpha": 0.1})  # fmt: skip
        fit(watch, train=loader(MANY[:60]))
        assert seen.encoded - 4 * watch.n_samples == encoded


def test_data_that_can_be_read_but_once_are_not_cached(tmp_path: Path, said: list[str]):
    watch = callback(cache=tmp_path / "state", train=iter(MANY[:60].split(10)))
    fit(watch, train=loader(MANY[:60]))
    assert len(watch.detector.state.train) == 60
    assert not (tmp_path / "state").exists()
    assert any("the cache is not used: the data can be read but once" in line for line in said)


def test_subjects_and_files_of_appended_images_are_told(tmp_path: Path, folder: Path):
    start(tmp_path / "state", Subset(Files(folder), range(90)))
    encoded, watch = start(tmp_path / "state", Files(folder))
    assert encoded == 30 + 80
    assert watch.detector.state.train.subjects == [f"p{i:03d}" for i in range(120)]


def test_a_damaged_state_is_not_read_for_its_images(tmp_path: Path):
    start(tmp_path / "state", MANY[:60])
    content = bytearray((tmp_path / "state").read_bytes())
    content[-40] ^= 1
    (tmp_path / "state").write_bytes(content)
    assert start(tmp_path / "state", MANY[:70])[0] == 70 + 80


def test_a_null_of_training_images_is_made_anew(tmp_path: Path):
    run = {
        "detector": {"encoder": build_encoder("pixels", sides=(4, 8), size=32), "verify": False, "null": "cross_fit"}
    }
    for data in (MANY[:30], MANY[:40]):
        watch = callback(cache=tmp_path / "state", **run)
        fit(watch, train=loader(data))
    fit(scratch := callback(**run), train=loader(MANY[:40]))
    assert torch.equal(watch.detector.state.null.similarity, scratch.detector.state.null.similarity)


# Outlines ------------------------------------------------------------------------------------------------------------


def outline(data: Any, **options: Any) -> str | None:
    return outline_of(Sides([Source("train", DataLoader(data, **options))], ()))


class Held(Dataset):
    """Images in memory, and a transform with a random state of its own."""

    def __init__(self, pixels: Any, change: Any = None) -> None:
        self.pixels, self.change, self.chance = pixels, change, np.random.RandomState()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> Any:
        return self.pixels[i]


def added(image: Tensor, amount: float = 1.0) -> Tensor:
    return image + amount


def test_equal_data_have_one_outline_and_every_change_of_what_they_hold_another():
    changed = TRAIN.clone()
    changed[13, 0, 3, 3] += 1e-6
    alike = [Held(TRAIN), Held(TRAIN.clone())]
    others = [
        Held(changed),
        Held(TRAIN.double()),
        Held(TRAIN.numpy()),
        Held(list(TRAIN)),
        Held(TRAIN, added),
        Held(TRAIN, functools.partial(added, amount=2.0)),
        Held(TRAIN, functools.partial(added, amount=3.0)),
        Held(TRAIN, lambda image: image * 2),
        Held(TRAIN, lambda image: image * 3),
        Subset(Held(TRAIN), range(24)),
        TensorDataset(TRAIN),
    ]
    assert len({outline(data) for data in alike}) == 1
    assert None not in (found := {outline(data) for data in [alike[0], *others]})
    assert len(found) == 1 + len(others)


ELSEWHERE = """
from types import SimpleNamespace
import numpy as np, torch
from torch.utils.data import TensorDataset
from mi_callback.lightning.data.outlines import outline_of
from mi_callback.lightning.data.sides import Sides, Source

class Held(TensorDataset):
    kinds = {"x", "y", "z"}
    def __init__(self):
        super().__init__(torch.arange(24.0).view(2, 1, 3, 4))
        self.names, self.chance = {"x", "y", "z"}, np.random.RandomState()
        self.change = lambda image, kinds=frozenset({"a", "b", "c"}): image if image in {"u", "v", "w"} else kinds
print(outline_of(Sides([Source("train", Held())], ())))
"""


def test_an_outline_is_the_same_in_every_process(capsys: pytest.CaptureFixture[str]):
    run = f"exec({ELSEWHERE!r}, {{'__name__': 'elsewhere'}})"
    exec(run)
    here = capsys.readouterr().out
    others = os.environ | {"PYTHONHASHSEED": "1"}  # of the order of sets
    there = subprocess.run([sys.executable, "-c", run], env=others, capture_output=True, text=True)
    assert there.stdout == here != "None\n"


def test_nothing_is_told_of_streams_and_of_data_that_hold_little():
    assert outline(Silent()) is None
    assert outline(Held(MANY)) is not None

    class Scaled(Silent):
        mean = torch.zeros(3)

    assert outline(Scaled()) is None
    assert outline_of(Sides([Source("train", [TRAIN])], ())) is None


def test_files_below_a_folder_that_is_named_count(tmp_path: Path):
    class Rooted(Silent):
        def __init__(self, root: Path) -> None:
            self.root = root

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(b"1")
    once = outline(Rooted(tmp_path))
    assert once == outline(Rooted(tmp_path))
    (tmp_path / "a" / "two.png").write_bytes(b"2")
    assert once != outline(Rooted(tmp_path)) != None  # noqa: E711


def test_parts_of_one_data_set_on_both_sides_are_told(folder: Path):
    def halves() -> Sides:
        both = [
            Source(name, DataLoader(Subset(files, range(*rows)))) for name, rows in (("t", (60,)), ("v", (60, 120)))
        ]
        return Sides(both[:1], both[1:])

    files = Files(folder)
    once = outline_of(halves())
    assert once == outline_of(halves())
    change(folder / "113.npy")
    assert once != outline_of(halves()) != None  # noqa: E711


def test_what_cannot_be_pickled_tells_nothing_and_circles_end():
    held = Held(TRAIN)
    held.change = {"owner": held, "again": [held.pixels, held.pixels]}
    assert outline(held) is not None
    held.change = threading.Lock()
    assert outline(held) is None


# Ranks ---------------------------------------------------------------------------------------------------------------


class Told(Callback):
    """Writes how many images each rank encoded where the test can read it: it is in another process."""

    def __init__(self, encoder: Counted, folder: Path) -> None:
        self.encoder, self.folder = encoder, folder

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        (self.folder / f"rank{trainer.global_rank}").write_text(str(self.encoder.encoded))


def test_two_processes_encode_what_is_new_and_load_what_they_fitted(tmp_path: Path):
    encoded = []
    for n in (16, 24, 24):
        encoder = Counted()
        watch = callback(cache=tmp_path / "state", detector={"encoder": encoder, "verify": False, "alpha": 0.1})
        run = {"train": loader(TRAIN[:n]), "val": loader(HELD_OUT)}
        fit(watch, Told(encoder, tmp_path), **run, **two())
        encoded.append(sum(int((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1)) - 4 * watch.n_samples)
    assert encoded == [16 + 80, 8 + 80, 0]
