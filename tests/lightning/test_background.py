"""Scored beside training, samples get the scores that they get in training, in order; and training does not notice."""

import csv
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from watching import HELD_OUT, TRAIN, callback, copies, fit, images, loader, options, scalars

from mi_callback import MemorizationCallback, MemorizationDetector
from mi_callback.errors import AlarmError, DataError, OptionError, StateError
from mi_callback.lightning.background import line, process
from mi_callback.lightning.background.judging import Samples

EPOCHS = 4


def beside(**further: Any) -> MemorizationCallback:
    return callback(background=True, **further)


def rows(folder: Path) -> list[dict[str, str]]:
    """What a CSVLogger wrote of validations."""
    with (folder / "version_0" / "metrics.csv").open() as lines:
        return [row for row in csv.DictReader(lines) if row["memorization/scored"]]


class Slow(Callback):
    """Keeps the process from working until an epoch begins, and counts what waits in line."""

    def __init__(self, watch: MemorizationCallback, until: int) -> None:
        self.watch, self.until, self.pid, self.waiting = watch, until, 0, list[int]()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.pid = self.watch._line._process.pid
        os.kill(self.pid, signal.SIGSTOP if trainer.current_epoch < self.until else signal.SIGCONT)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.waiting.append(self.watch._line.busy)


class Run(NamedTuple):
    watch: MemorizationCallback
    trainer: Any
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run, Slow, Path]:
    """A run that is scored beside training, slowly, and the same one that is scored in training."""
    runs, temporary = [], tmp_path_factory.mktemp("temporary")
    watches = (beside(set_scores=True), callback(set_scores=True))
    slow = Slow(watches[0], until=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        for watch, others in zip(watches, ([slow], []), strict=True):
            folder = tmp_path_factory.mktemp("logs")
            trainer = fit(watch, *others, max_epochs=EPOCHS, logger=CSVLogger(folder, ""))
            runs.append(Run(watch, trainer, rows(folder)))
    return runs[0], runs[1], slow, temporary


def test_scores_are_those_that_are_made_in_training_bit_by_bit(both):
    ours, theirs, _, _ = both
    assert [record[:2] for record in ours.watch.history] == [record[:2] for record in theirs.watch.history]
    for one, other in zip(ours.watch.history, theirs.watch.history, strict=True):
        assert torch.equal(one.scores.mi, other.scores.mi)
        assert torch.equal(one.scores.p_value, other.scores.p_value)
        assert one.scores.verdict == other.scores.verdict
    assert ours.watch._recording.looks == theirs.watch._recording.looks
    assert torch.equal(ours.watch.samples, theirs.watch.samples)
    assert scalars(ours.trainer) == scalars(theirs.trainer)


def test_weights_are_those_of_a_training_that_is_scored_by_itself(both):
    ours, theirs = (run.trainer.model.state_dict() for run in both[:2])
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_results_of_a_slow_process_come_in_order_and_no_more_than_two_wait_for_it(both):
    ours, theirs, slow, _ = both
    assert slow.waiting[:2] == [1, 2]
    assert max(slow.waiting) <= line.IN_LINE
    assert [record.epoch for record in ours.watch.history] == list(range(EPOCHS))
    # Nothing was known at the first two validations, and that is no zero.
    first = [row for row in ours.rows if row["memorization/scored"] == "0.0"][:2]
    assert [row["epoch"] for row in first] == ["0", "1"]
    assert all(row["memorization/mi_mean"] == row["memorization/flagged"] == "" for row in first)
    assert all(row["memorization/n_scored"] == "0.0" for row in first)
    # In the end loggers have what they have of a training that is scored by itself.
    key = "memorization/mi_mean"
    found, expected = ([float(row[key]) for row in run.rows if row[key]] for run in (ours, theirs))
    assert found == pytest.approx(expected)


def test_no_process_and_no_file_is_left(both):
    ours, _, slow, temporary = both
    assert ours.watch._line is None
    assert list(temporary.iterdir()) == []
    with pytest.raises(ProcessLookupError):  # a zombie would be found
        os.kill(slow.pid, 0)


class Killing(Callback):
    """Kills the process while it has a validation to score."""

    def __init__(self, watch: MemorizationCallback, real: bool) -> None:
        self.watch, self.real = watch, real

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if self.real:
            self.watch._line._process.send_signal(signal.SIGSTOP)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 0 and not trainer.sanity_checking:
            self.watch._line._process.kill()
            self.watch._line._process.wait()


def test_a_process_that_is_killed_is_told_and_nothing_waits_for_it():
    watch = beside()
    with pytest.warns(UserWarning, match=r"not scored at epoch 0: StateError: .*it ended \(killed by SIGKILL\)"):
        trainer = fit(watch, Killing(watch, real=True))
    assert scalars(trainer) == {"scored": 0, "n_scored": 0, "alarm": 0}
    assert watch.history == []
    assert [look.verdict for look in watch._recording.looks] == ["not scored"]


# Without a process ----------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What would have been sent, and what keeps it from being scored."""

    requests: list[Any]
    held: threading.Lock

    @property
    def given(self) -> list[process.Given]:
        return [request for request in self.requests if isinstance(request, process.Given)]


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """In the place of the process that scores: a thread of this one, and copies as pickling makes them."""
    asked, state = Asked([], threading.Lock()), dict[str, Any]()

    def answer(_process: Any, request: Any) -> Any:
        request = pickle.loads(pickle.dumps(request))
        asked.requests.append(request)
        if isinstance(request, process.Given):
            state["given"] = request
            return None
        with asked.held:
            return process.result_of(pickle.loads(pickle.dumps(process._found(state["given"], request))))

    waiting = [sys.executable, "-S", "-c", "input()"]
    monkeypatch.setattr(line, "start", lambda: subprocess.Popen(waiting, stdin=-1, stdout=-1))
    monkeypatch.setattr(line, "answer_of", answer)
    return asked


def test_another_process_takes_the_place_of_one_that_ended(at_hand: Asked):
    watch = beside()
    fit(watch, Killing(watch, real=False), max_epochs=3)
    assert len(at_hand.given) == 2
    assert [record.epoch for record in watch.history] == [0, 1, 2]


def test_an_alarm_that_is_raised_at_the_end_counts(at_hand: Asked, tmp_path: Path):
    watch = beside(sampler=copies(*range(16)), act="raise", n_samples=16, sample_batch_size=16)
    at_hand.held.acquire()  # nothing is scored before training ends
    end = watch.on_train_end
    watch.on_train_end = lambda *args: (at_hand.held.release(), end(*args))
    with pytest.raises(AlarmError, match="does not copy its training set"):
        fit(watch, logger=CSVLogger(tmp_path, ""))
    assert watch.scores.verdict == "memorized"
    early, late = rows(tmp_path)
    assert (early["memorization/scored"], early["memorization/alarm"]) == ("0.0", "0.0")
    assert (late["memorization/scored"], late["memorization/alarm"]) == ("1.0", "1.0")
    assert late["memorization/flagged"] == "16.0"


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_what_fails_in_scoring_is_treated_as_it_is_in_training(at_hand: Asked, on_error: str):
    # Colours, which the encoder does not take.
    watch = beside(sampler=lambda n: images(n, 5).repeat(1, 3, 1, 1), on_error=on_error)
    if on_error == "raise":
        with pytest.raises(DataError, match="needed images of 1 channel"):
            fit(watch, max_epochs=2)
    else:
        with pytest.warns(UserWarning, match="not scored at epoch 0: DataError: .*needed images of 1 channel"):
            trainer = fit(watch, max_epochs=2)
        assert [look.epoch for look in watch._recording.looks] == [0, 1]
        assert scalars(trainer) == {"scored": 0, "n_scored": 0, "alarm": 0}
    assert watch.history == []
    assert watch._line is None


def test_whoever_monitors_a_key_finds_it_at_the_first_validation(at_hand: Asked, tmp_path: Path):
    stop = EarlyStopping("memorization/mi_max", patience=9)
    checkpoint = ModelCheckpoint(tmp_path, monitor="memorization/flagged")
    watch = beside()
    fit(watch, stop, checkpoint, max_epochs=2, enable_checkpointing=True)
    assert [record.epoch for record in watch.history] == [0, 1]
    assert float(checkpoint.best_model_score) == 0


def test_data_that_change_are_searched_in_the_process_too(at_hand: Asked):
    newcomers, grown = images(6, 8), torch.cat([TRAIN, images(6, 8)])

    class Growing(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            trainer.train_dataloader.dataset.tensors = (grown,)

    def run(make: Callable[..., MemorizationCallback]) -> MemorizationCallback:
        watch = make(sampler=lambda n: newcomers[:n])
        fit(watch, Growing(), train=loader(TRAIN.clone()), max_epochs=3)
        return watch

    ours, theirs = run(beside), run(callback)
    assert [len(one.detector.train) for one in at_hand.given] == [24, 30]
    for one, other in zip(ours.history, theirs.history, strict=True):
        assert torch.equal(one.scores.mi, other.scores.mi)
    assert not ours.history[0].scores.flagged.any()
    assert ours.history[2].scores.flagged.all()


def test_pictures_of_pairs_are_made_beside_training(at_hand: Asked):
    background = line.Background(pictures=True)
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    background.give(detector)
    background.put(Samples(TRAIN[:3], 0, 0, 0))
    (found,) = background.fetch(0)
    assert found.pairs().shape == (3, 1, 96, 192)
    background.close()


def test_validate_alone_is_scored_at_once():
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    watch = beside(detector=detector)
    trainer = fit(callback(), max_epochs=1)
    trainer.callbacks = [watch]
    trainer.validate(trainer.model, loader(HELD_OUT), verbose=False)
    assert len(watch.history) == 1
    assert watch._line is None


def test_an_error_that_ends_training_ends_the_process_and_what_it_had_not_scored_is_told(monkeypatch, at_hand: Asked):
    class Failing(Callback):
        def on_validation_end(self, trainer: Any, module: Any) -> None:
            if not trainer.sanity_checking:
                raise KeyError("the user's own")

    def dead(process: Any, request: Any) -> Any:
        if isinstance(request, Samples):
            process.wait()
            raise StateError("ended")

    monkeypatch.setattr(line, "answer_of", dead)
    watch = beside()
    with (
        pytest.warns(UserWarning, match="not scored at epoch 0: StateError: .*it was stopped before"),
        pytest.raises(KeyError, match="own"),
    ):
        fit(watch, Failing())
    assert watch._line is None


def test_a_detector_that_cannot_be_sent_is_refused_before_training():
    detector = options()
    detector["encoder"].handle = threading.Lock()
    watch = beside(detector=detector)
    with pytest.raises(StateError, match=r"its encoder or its index cannot be sent \(TypeError: cannot pickle"):
        fit(watch)
    assert watch.history == []
    assert watch._line is None


def test_a_limit_of_the_time_that_training_waits_is_refused():
    with pytest.raises(OptionError, match=r"needed time_limit or background=True; both came"):
        MemorizationCallback(background=True, time_limit=60)
    with pytest.raises(OptionError, match="needed background True or False; 1 came"):
        MemorizationCallback(background=1)
