"""A folder of states: each is found under its settings and data alone, and the least recently used go."""

import os
import stat
from pathlib import Path

import pytest
import torch

from mi_callback import MemorizationDetector, build_encoder
from mi_callback import cache as caching
from mi_callback.cache import checked_cache, kept_at, power_beside, tidy
from mi_callback.errors import OptionError, OutputError
from mi_callback.state import make_place


def detector(**options) -> MemorizationDetector:
    options = {"encoder": build_encoder("pixels", sides=(2, 4), size=16), "verify": False} | options
    return MemorizationDetector(**options)


@pytest.fixture(scope="module")
def fitted() -> MemorizationDetector:
    people = torch.rand(30, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return detector().fit(people[:15], held_out=people[15:])


def states(folder: Path, sizes: dict[str, int]) -> None:
    """States of these sizes, the first used longest ago, and what is kept beside them."""
    for age, (name, size) in enumerate(sizes.items()):
        power_beside(folder / f"{name}.state").touch()
        (folder / f"{name}.state").write_bytes(bytes(size))
        os.utime(folder / f"{name}.state", (1000 + age, 1000 + age))


# Definition


def test_a_file_is_a_file_and_a_folder_holds_one_under_every_hash(tmp_path: Path):
    assert kept_at(tmp_path / "state", {"a": 1}, "data") == tmp_path / "state"
    assert kept_at(tmp_path, {"a": 1}, None) == tmp_path
    places = {kept_at(tmp_path, settings, data) for settings in ({"a": 1}, {"a": 2}, {}) for data in ("x", "y")}
    assert len(places) == 6
    assert kept_at(tmp_path, {"a": 1, "b": 2}, "x") == kept_at(tmp_path, {"b": 2, "a": 1}, "x")


@pytest.mark.parametrize(
    ("limit", "left"),
    [(100, "abcd"), (99, "bcd"), (60, "cd"), (45, "d"), (0, "d"), (None, "abcd")],
)
def test_beyond_the_limit_the_least_recently_used_go_and_the_newest_stays(tmp_path: Path, limit, left):
    states(tmp_path, {"a": 10, "b": 30, "c": 20, "d": 40})
    tidy(tmp_path, tmp_path / "d.state", limit)
    assert {path.name for path in tmp_path.iterdir()} == {f"{a}.state{b}" for a in left for b in ("", ".power")}


# Promise


def test_states_of_several_settings_and_data_are_kept_beside_each_other(tmp_path: Path, fitted):
    fitted.save(tmp_path, "data")
    fitted.save(tmp_path, "other data")
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(detector().load(tmp_path, "data").null.similarity, fitted.null.similarity)
    assert detector().is_kept(tmp_path, "other data")
    assert not detector().is_kept(tmp_path, "third data")
    assert not detector(whitening="standard").is_kept(tmp_path, "data")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_what_was_loaded_stays_longer(tmp_path: Path, fitted, monkeypatch):
    for age, data in enumerate(("first", "second")):
        fitted.save(tmp_path, data)
        os.utime(kept_at(tmp_path, fitted.settings(), data), (1000 + age, 1000 + age))
    detector().load(tmp_path, "first")
    monkeypatch.setattr(caching, "LIMIT", int(2.5 * kept_at(tmp_path, fitted.settings(), "first").stat().st_size))
    fitted.save(tmp_path, "third")
    assert [fitted.is_kept(tmp_path, data) for data in ("first", "second", "third")] == [True, False, True]


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(tmp_path: Path):
    for name, age in (("a.state.1.part", 0), ("b.state.2.part", None)):
        (tmp_path / name).touch()
        if age is not None:
            os.utime(tmp_path / name, (age, age))
    tidy(tmp_path, tmp_path / "c.state")
    assert [path.name for path in tmp_path.iterdir()] == ["b.state.2.part"]


# Refusal


def test_a_folder_of_other_things_is_refused(tmp_path: Path):
    assert checked_cache(tmp_path) == tmp_path
    states(tmp_path, {"a": 1})
    assert checked_cache(str(tmp_path)) == str(tmp_path)
    (tmp_path / "scan.nii").touch()
    with pytest.raises(OptionError, match=r"holds other things\. Name a file in it: .*state"):
        checked_cache(tmp_path)


def test_a_place_where_no_state_can_be_written_is_refused(tmp_path: Path, fitted: MemorizationDetector):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "state", Path("/proc/nowhere/state")):
        with pytest.raises(OutputError, match="needed a place to write a fitted state"):
            make_place(place)
        with pytest.raises(OutputError, match="needed a place to write a fitted state"):
            fitted.save(place)
    make_place(tmp_path / "new" / "state")
    assert list((tmp_path / "new").iterdir()) == []
