"""Whatever fails beside it, a training ends with the weights that it has without the callback; what failed is told."""

import datetime
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as lp
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from watching import (
    HELD_OUT,
    SIDE,
    TRAIN,
    Slices,
    Tiny,
    callback,
    copies,
    fit,
    images,
    loader,
    make_trainer,
    options,
    scalars,
)

from mi_callback import MemorizationDetector
from mi_callback.errors import OptionError
from mi_callback.images.files.accounts import FileError, Reason
from mi_callback.judging.calibration import FEWEST, ONCE
from mi_callback.lightning.loggers.looks import Look
from mi_callback.lightning.loggers.report import table
from mi_callback.lightning.time_limit import TimeLimit, TimeUp


class WandbLogger(DummyLogger):
    """Takes scalars; pictures, tables and the report do not reach it."""

    @property
    def experiment(self) -> Any:
        return object()


def failing(error: BaseException | None) -> Callable[[Any, int], Tensor]:
    """A sampler that works when it is tried and fails, or draws NaN, at every validation."""

    def draw(module: Any, n: int) -> Tensor:
        if n > 2 and error is not None:
            raise error
        return images(n, 5) * (math.nan if n > 2 else 1.0)

    return draw


def slow(module: Any, n: int) -> Tensor:
    """A thousand steps of a network."""
    if n > 2:
        for _ in range(1000):
            module.net[2](torch.ones(1))
            time.sleep(0.001)
    return images(n, 5)


FAULTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "the sampler": lambda path: {"sampler": failing(RuntimeError("shapes do not match"))},
    "the end of an iterator": lambda path: {"sampler": failing(StopIteration())},
    "NaN": lambda path: {"sampler": failing(None)},
    "constant": lambda path: {"sampler": lambda n: images(n, 5) if n == 2 else torch.zeros(n, 1, SIDE, SIDE)},
    "memory": lambda path: {"sampler": failing(MemoryError())},
    "memory of the GPU": lambda path: {"sampler": failing(torch.OutOfMemoryError())},
    "the logger": lambda path: {"logger": WandbLogger()},
    "the cache": lambda path: {"cache": path / "file" / "state"},
    "the report": lambda path: {"report": path / "file" / "report"},
    "time": lambda path: {"sampler": slow, "time_limit": 0.05},
    "no time at all": lambda path: {"time_limit": datetime.timedelta(microseconds=1)},
}
SCORED_ANYWAY = ("the logger", "the cache", "the report")


def trained(*watches: Any, logger: Any = False) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = Tiny()
    fit(*watches, module=module, max_epochs=2, logger=logger)
    assert module.training
    assert torch.is_grad_enabled()
    return module.state_dict()


@cache
def without() -> dict[str, Tensor]:
    return trained()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_validation_leaves_the_weights_as_they_are_without_the_callback(
    fault: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    (tmp_path / "file").touch()
    options = FAULTS[fault](tmp_path)
    logger = options.pop("logger", False)
    watch = callback(**options)
    weights = trained(watch, logger=logger)
    assert all(torch.equal(value, weights[key]) for key, value in without().items())
    assert len(watch.history) == (2 if fault in SCORED_ANYWAY else 0)
    assert any("memorization: " in str(each.message) for each in recwarn)


def test_an_interrupt_passes_and_leaves_modes_gradients_and_random_numbers_as_they_were():
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    module, watch = Tiny(), callback(sampler=failing(KeyboardInterrupt()), detector=detector, on_error="warn")
    module.train()
    drawing, trainer = watch._drawing, make_trainer()
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        drawing.samples(trainer, module)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert all(part.training for part in module.modules())
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_trainer(watch).fit(module, loader(TRAIN), loader(HELD_OUT))
    assert watch.history == []


# Time ----------------------------------------------------------------------------------------------------------------


def test_fewer_samples_are_scored_where_time_is_short_and_that_is_said(said: list[str]):
    def each(n: int) -> Tensor:
        time.sleep(0.2 if n > 1 else 0)
        return images(n, int(time.monotonic() * 1e6) % 1000)

    watch = callback(sampler=each, time_limit=3, n_samples=40, sample_batch_size=3)
    trainer = fit(watch)
    assert 0 < len(watch.samples) < 40
    assert scalars(trainer)["n_scored"] == len(watch.samples) == len(watch.scores)
    assert any(f"{len(watch.samples)} of 40 samples are scored, for there was no time" in line for line in said)


def test_time_is_told_where_nothing_was_scored():
    with pytest.warns(
        UserWarning, match=r"not scored at epoch 0: TimeUp: sampling took longer than time_limit=0\.05 s"
    ):
        trainer = fit(callback(sampler=slow, time_limit=0.05, on_error="raise"))
    assert scalars(trainer)["scored"] == 0


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("mi_callback.lightning.time_limit.time", made := Clock())
    return made


def cut_short(limit: TimeLimit, clock: Clock) -> list[float]:
    order = []
    with limit.scoring(5):
        clock.now += 1.0
        try:
            torch.ones(1)
        finally:  # what is put in order is not disturbed again
            order.append(float(torch.zeros(1) + 1))
    return order


def test_how_long_scoring_took_tells_how_many_can_be_scored(clock: Clock):
    limit = TimeLimit(1.0)
    limit.begin()
    assert limit.affordable(50) == 50  # not known yet
    with limit.scoring(10):
        clock.now += 0.125
    limit.begin()
    assert limit.affordable(1000) == 80
    with pytest.raises(TimeUp, match="scoring 5 samples takes longer than time_limit=1 s leaves"):
        cut_short(limit, clock)
    limit.begin()
    assert limit.affordable(5) == 2  # at least twice as long as it had
    with limit.sampling(0):
        clock.now += 0.75
    with pytest.raises(TimeUp, match=r"scoring a sample takes 0\.4 s, and of time_limit=1 s 0\.25 s are left$"):
        limit.affordable(1)


def test_so_few_samples_that_their_quality_cannot_be_told_are_not_scored_and_all_are_tried_next_time(clock: Clock):
    limit = TimeLimit(1.0)
    limit.begin()
    with limit.scoring(10):
        clock.now += 1.25
    limit.begin()
    assert limit.affordable(128) == FEWEST
    with limit.sampling(0):
        clock.now += 0.25
    with pytest.raises(TimeUp, match="fewer than 8 samples are not scored, for their quality cannot be told"):
        limit.affordable(128)
    limit.begin()
    assert limit.affordable(128) == 128


def test_sampling_that_is_cut_to_so_few_is_not_scored_either(clock: Clock):
    limit = TimeLimit(1.0)
    limit.begin()
    network = nn.Linear(1, 1)
    with suppress(TimeUp), limit.sampling(3):
        clock.now += 2.0
        network(torch.ones(1))
    with pytest.raises(TimeUp, match="3 samples were drawn before sampling took longer than time_limit=1 s; fewer"):
        limit.affordable(3, asked=40)
    assert limit.affordable(3, asked=3) == 3
    limit.begin()
    assert limit.affordable(3, asked=40) == 3  # the sampler has no more


def test_what_is_done_once_for_samples_of_a_new_quality_is_finished_and_measures_nothing(clock: Clock):
    limit = TimeLimit(1.0)
    limit.expect(0.03125)
    limit.begin()
    assert limit.affordable(128) == 32
    with limit.scoring(32):
        ONCE.get()()
        clock.now += 60.0
        torch.ones(1)
    limit.begin()
    assert limit.affordable(128) == 32
    with pytest.raises(TimeUp, match="scoring 5 samples takes longer"):
        cut_short(limit, clock)


def test_the_power_self_test_tells_how_long_a_sample_takes():
    watch = callback(power=1, time_limit=1000, n_samples=3)
    fit(watch)
    assert 0 < watch._prepared.seconds_each < 10
    assert watch._limit._each != watch._prepared.seconds_each  # measured anew
    assert len(watch.samples) == 3


def test_sampling_leaves_time_for_scoring(clock: Clock):
    limit = TimeLimit(1.0)
    limit.begin()
    with limit.scoring(10):
        clock.now += 0.5
    limit.begin()
    with limit.sampling(0):
        clock.now += 0.25
    with limit.sampling(10):  # whose scoring takes half of the second
        clock.now += 0.24
    network = nn.Linear(1, 1)
    with pytest.raises(TimeUp, match="sampling took longer"), limit.sampling(20):
        network(torch.ones(1))
    network(torch.ones(1))


@pytest.mark.parametrize("limit", [0, -1, True, "soon", datetime.timedelta(0), math.nan])
def test_a_limit_that_is_none_is_refused(limit: Any):
    with pytest.raises(OptionError, match="needed time_limit in seconds, above 0, or a timedelta"):
        callback(time_limit=limit)


# Names ---------------------------------------------------------------------------------------------------------------


def test_errors_that_may_name_files_are_kept_here_where_a_logger_sends_what_is_printed(tmp_path: Path):
    def sampler(module: Any, n: int) -> Tensor:
        if n > 2:
            raise FileNotFoundError("/hospital/ward7/Janssen.nii")
        return images(n, 0)

    watch = callback(sampler=sampler, report=tmp_path / "report")
    with pytest.warns(
        UserWarning, match=r"FileNotFoundError; the text, which may name files, is in errors\.txt"
    ) as told:
        fit(watch, logger=CometLogger())
    assert not [each for each in told if "Janssen" in str(each.message)]
    kept = tmp_path / "report" / "errors.txt"
    assert "/hospital/ward7/Janssen.nii" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    with pytest.warns(UserWarning, match="Janssen"):  # nothing leaves: say what there is
        fit(callback(sampler=sampler))


@pytest.mark.parametrize("caused", [True, False])
def test_a_training_file_that_is_damaged_is_named_in_a_file_that_stays_here_alone(
    tmp_path: Path, caused: bool, said: list[str]
):
    class Patients(Slices):
        damaged = False

        def __getitem__(self, i: int) -> Any:
            if self.damaged:
                raise FileError(Reason.DAMAGED, "needed a readable image; /ward7/Janssen.png is damaged.") from (
                    OSError("Janssen") if caused else None
                )
            return super().__getitem__(i)

    class Share(lp.Callback):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            data.damaged = not trainer.sanity_checking

    data, logger, folder = Patients(TRAIN), CometLogger(), tmp_path / "report"
    watch = callback(sampler=lambda n: HELD_OUT[:n], report=folder)
    with pytest.warns(UserWarning, match=r"FileError.*: damaged.*errors\.txt.*nothing reads as clean") as told:
        fit(Share(), watch, train=loader(data), logger=logger)
    assert [record.scores.verdict for record in watch.history] == ["inconclusive"]
    report = (folder / "report.json").read_text()
    assert "FileError" in report
    assert "Janssen" not in report + str([str(each.message) for each in told]) + str(watch.scores) + str(said)
    assert "/ward7/Janssen.png" in (kept := folder / "errors.txt").read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


class CometLogger(lp.loggers.logger.Logger):
    """May send what it gets."""

    name, version, save_dir = "comet", 0, None

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, *args: Any, **further: Any) -> None: ...


# The report ----------------------------------------------------------------------------------------------------------


def test_the_run_ends_with_a_table_and_a_report_in_which_no_name_stands(tmp_path: Path, said: list[str]):
    train = loader(Slices(TRAIN, [f"Janssen{i}" for i in range(24)]))
    watch = callback(sampler=copies(3, 17, 3), report=tmp_path / "report")
    fit(watch, train=train, max_epochs=2)
    (table,) = [line for line in said if "memorization by epoch" in line]
    assert table.count("memorized") == 2
    assert "2 people: 5, 1" in table or "2 people: 4, 2" in table
    folder = tmp_path / "report"
    assert any(f"the report is in {folder}." in line for line in said)
    report = json.loads((folder / "report.json").read_text())
    assert [look["verdict"] for look in report["validations"]] == ["memorized"] * 2
    assert report["validations"][1]["summary"]["flagged"] == 6
    assert "Janssen" not in (folder / "report.json").read_text() + table
    header, *rows = (folder / "matches.csv").read_text().splitlines()
    assert header == "epoch,sample,mi,p_value,match,subject,file"
    assert len(rows) == 12
    assert "Janssen17" in "".join(rows)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("report.json", "curves.png", "matches.csv"), 0o600
    )


def test_a_report_is_of_one_run(tmp_path: Path):
    for name in ("report.json", "curves.png", "matches.csv", "errors.txt", "matches.csv.part", "of the user.txt"):
        (tmp_path / name).write_text("Janssen")
    fit(callback(report=tmp_path, sampler=copies(3)), fast_dev_run=True)
    assert (tmp_path / "matches.csv").read_text() == "Janssen"  # nothing is scored, and nothing written
    fit(callback(report=tmp_path, sampler=lambda n: HELD_OUT[:n]))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "curves.png", "of the user.txt"}


def test_without_a_logger_and_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fit(callback(sampler=copies(0)))
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_plain_where_rich_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    summary = {"mi_median": 0.5, "mi_p95": 3.0, "flagged": 1.0, "flagged_expected": 0.5}
    looks = [Look(epoch, epoch, summary, "clean") for epoch in range(30)]
    framed = table([*looks, Look(30, 30, {}, "not scored")])
    monkeypatch.setitem(sys.modules, "rich", None)
    plain = table([*looks, Look(30, 30, {}, "not scored")])
    assert "┃" in framed
    assert plain.isascii() or "┃" not in plain
    for text in (framed, plain):
        assert "21 of 31 validations" in text or "20 of 31 validations" in text
        assert "not scored" in text
