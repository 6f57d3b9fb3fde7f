"""Audits that are killed, go on, share a folder, or share a fitted state."""

import os
import subprocess
import sys
from dataclasses import is_dataclass

import pytest
import torch
from torch import Tensor

from mi_callback import audit, build_encoder
from mi_callback.auditing.reports.reviewing import review
from mi_callback.auditing.resuming import UNFINISHED
from mi_callback.cache import Kept
from mi_callback.detection.matching import Matcher
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import BusyError, OptionError, OutputError
from mi_callback.reporting.record import verify_record
from mi_callback.reporting.record.lock import held
from mi_callback.retrieval.features import Features

SMALL = {"size": 32, "power": 0, "evidence": 0, "batch_size": 8, "verify": False, "alpha": 0.1}


class Killed(BaseException):
    """As a kill: no part of the audit catches it."""


@pytest.fixture
def where(people_folders):
    return [people_folders / name for name in ("train", "synthetic", "held")]


@pytest.fixture
def encoder():
    return build_encoder("pixels", size=32)


@pytest.fixture
def done(monkeypatch):
    """Numbers of images encoded and of queries looked up; with `done["left"]` it is killed after so many blocks."""
    counts = {"encoded": 0, "matched": 0, "left": 10**9}

    def counted(method, name, size):
        def call(self, first, *arguments, **options):
            if counts["left"] == 0:
                raise Killed
            counts["left"] -= 1
            counts[name] += size(first)
            return method(self, first, *arguments, **options)

        return call

    monkeypatch.setattr(
        MemorizationDetector,
        "features",
        counted(
            MemorizationDetector.features,
            "encoded",
            lambda images: len(images[0]["image"] if isinstance(images, list) else images),
        ),
    )
    monkeypatch.setattr(Matcher, "__call__", counted(Matcher.__call__, "matched", len))
    return counts


def assert_same(one, other):
    """Bit for bit."""
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, list):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    elif is_dataclass(one):
        assert_same(vars(one), vars(other))
    else:
        assert one == other


# Killed


def test_a_killed_audit_goes_on_where_it_was_and_finds_the_same(where, encoder, done, tmp_path):
    whole = audit(*where, tmp_path / "whole", encoder=encoder, **SMALL)
    taken = dict(done)
    for killed_after in (6, 12):  # among the features, and among the matches
        out = tmp_path / str(killed_after)
        done.update(encoded=0, matched=0, left=killed_after)
        with pytest.raises(Killed), pytest.warns(UserWarning, match="the same command goes on from there"):
            audit(*where, out, encoder=encoder, **SMALL)
        kept = out / UNFINISHED
        assert len(list(kept.iterdir())) == killed_after
        assert kept.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept.iterdir())
        assert not (out / "report.json").exists()
        done["left"] = 10**9
        assert_same(audit(*where, out, encoder=encoder, **SMALL), whole)
        assert (done["encoded"], done["matched"]) == (taken["encoded"], taken["matched"])  # nothing twice
        assert not kept.exists()
        assert verify_record(out).stands


def test_of_a_killed_audit_nothing_is_taken_for_what_it_was_not(where, encoder, done, tmp_path):
    done["left"] = 6
    with pytest.raises(Killed), pytest.warns(UserWarning, match="is kept"):
        audit(*where, tmp_path, encoder=encoder, **SMALL)
    done.update(encoded=0, left=10**9)
    audit(*where, tmp_path, encoder=encoder, **SMALL | {"size": 24})  # other pixels
    assert done["encoded"] == 80  # all of them
    assert not (tmp_path / UNFINISHED).exists()


def test_a_block_that_was_cut_is_computed_again(tmp_path):
    features = Features({"a": torch.rand(1, 2, 3)}, torch.zeros(2, 4, 4, dtype=torch.uint8), ["x", "y"], None)
    kept = Kept(tmp_path / "kept", [Features])
    kept.part("key", lambda: features)
    assert_same(kept.part("key", lambda: pytest.fail("it was kept")), features)
    path = tmp_path / "kept" / "key"
    path.write_bytes(path.read_bytes()[:-40])
    assert kept.part("key", lambda: features) is features
    assert_same(kept.part("key", lambda: pytest.fail("it was kept")), features)


def test_blocks_give_what_the_whole_gives(where, encoder, done, tmp_path):
    """With views, windows, alignment and all: as when nothing is written."""
    options = SMALL | {"verify": True, "candidates": 1, "null_size": 10}
    where[1] /= "=two"  # the copies alone
    assert_close(
        audit(*where, tmp_path, encoder=encoder, **options),
        audit(*where, encoder=encoder, **options | {"evidence": None}),
    )


def assert_close(one, other):
    assert one.match.tolist() == other.match.tolist()
    torch.testing.assert_close(one.mi, other.mi, rtol=1e-3, atol=1e-3)
    assert torch.equal(one.p_value, other.p_value)


# Two at once


def test_a_second_audit_into_a_folder_stops_and_says_who_is_there(where, encoder, tmp_path):
    with held(tmp_path, "audit"):
        for call in (
            lambda: audit(*where, tmp_path, encoder=encoder, **SMALL),
            lambda: review(tmp_path, 0, "confirmed", "A"),
        ):
            with pytest.raises(
                BusyError, match=r"mi-audit \(audit\), process \d+ on .* since 20.*\. Wait until it ends"
            ):
                call()
    audit(*where, tmp_path, encoder=encoder, **SMALL)
    assert not (tmp_path / ".lock.holder").exists()
    assert verify_record(tmp_path).stands


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path):
    source = (
        "import os, signal, sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", source, str(tmp_path / ".lock")], check=False)
    assert ran.returncode == -9
    (tmp_path / ".lock.holder").write_text("process 1")
    with held(tmp_path, "audit"):
        assert f"process {os.getpid()}" in (tmp_path / ".lock.holder").read_text()


# One state for several audits


def test_a_fitted_state_serves_the_next_audit_of_the_same_people(where, encoder, done, tmp_path):
    train, synthetic, held_out = where
    cache = tmp_path / "state"
    first = audit(*where, cache=cache, encoder=encoder, size=32, power=0, verify=False, alpha=0.1)
    assert cache.stat().st_mode & 0o777 == 0o600
    done.update(encoded=0)
    out = tmp_path / "report"
    second = audit(*where, out, cache=cache, encoder=encoder, **SMALL)
    assert done["encoded"] == 20  # the samples alone
    assert_close(second, first)
    with pytest.warns(UserWarning, match=r"the cache is not used: .* differs in \['data'\]"):
        audit(held_out, synthetic, train, cache=cache, encoder=encoder, size=32, power=0, verify=False, alpha=0.1)
    with pytest.raises(OptionError, match="needed cache as a file"):
        audit(*where, cache=tmp_path, encoder=encoder)
    done.update(encoded=0)
    with pytest.raises(OutputError, match="needed a place to write a fitted state"):
        audit(*where, cache="/proc/nowhere/state", encoder=encoder, size=32, power=0)
    assert done["encoded"] == 0
