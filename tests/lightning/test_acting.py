"""An alarm stops training, keeps checkpoints from before it, ends a program, where that was asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from watching import HELD_OUT, TRAIN, Tiny, callback, fit, images, loader, make_trainer, options, scalars

from mi_callback import MemorizationDetector
from mi_callback.errors import AlarmError, OptionError

MANY = {"n_samples": 16, "sample_batch_size": 16}


def copies_from(epoch: int) -> Any:
    def draw(module: Any, n: int) -> Tensor:
        return TRAIN[:n] if module.current_epoch >= epoch else images(n, 77)

    return draw


def test_training_stops_at_the_alarm_where_that_was_asked_for():
    assert fit(callback(sampler=copies_from(1), act="stop", **MANY), max_epochs=5).current_epoch == 2
    assert fit(callback(sampler=copies_from(1)), max_epochs=3).current_epoch == 3
    assert fit(callback(sampler=copies_from(9), act="stop"), max_epochs=3).current_epoch == 3


def test_no_checkpoint_is_kept_after_the_alarm_and_settings_are_put_back(tmp_path: Path):
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_last=True)
    fit(callback(sampler=copies_from(2), act=["veto"], **MANY), checkpoint, max_epochs=4, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["epoch=0.ckpt", "epoch=1.ckpt", "last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
    assert (checkpoint.save_top_k, checkpoint.save_last) == (-1, True)


def test_checkpoints_say_what_was_found_up_to_then(tmp_path: Path):
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(callback(sampler=copies_from(1), **MANY), checkpoint, max_epochs=2, enable_checkpointing=True)
    clean, copying = (torch.load(tmp_path / f"epoch={e}.ckpt", weights_only=True)["memorization"] for e in (0, 1))
    assert (clean["alarm"], clean["epoch"]) == (False, 0)
    assert (copying["alarm"], copying["verdict"], copying["summary"]["flagged"]) == (True, "memorized", 16)


def test_an_error_comes_after_all_was_saved_and_told(tmp_path: Path, said: list[str]):
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    with pytest.raises(AlarmError, match="needed a generator that does not copy its training set"):
        fit(
            callback(sampler=copies_from(0), act=("stop", "raise"), **MANY),
            checkpoint,
            max_epochs=3,
            enable_checkpointing=True,
        )
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=0.ckpt"]
    assert any("memorization by epoch" in line for line in said)
    fit(callback(act="raise"))


class Breaks(Callback):
    """Ends training by an error, once."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1 and self.error is not None:
            error, self.error = self.error, None
            raise error


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("at_error", [False, True])
def test_a_clean_run_after_one_that_an_error_ended_keeps_checkpoints(
    tmp_path: Path, error: BaseException, at_error: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning ignores Ctrl-C for good
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_last=True)
    checkpoint.save_on_exception = at_error  # an argument from Lightning 2.6 on
    watch, breaks = callback(sampler=copies_from(0), act="veto", **MANY), Breaks(error)
    with pytest.raises((RuntimeError, SystemExit)):
        fit(watch, breaks, checkpoint, max_epochs=2, enable_checkpointing=True)
    assert not (tmp_path / "last.ckpt").exists()
    if not at_error:
        assert (checkpoint.save_top_k, checkpoint.save_last) == (1, True)
    watch._drawing.sampler = lambda n: images(n, 77)
    fit(watch, checkpoint, max_epochs=2, enable_checkpointing=True)
    assert (tmp_path / "last.ckpt").exists()
    assert (checkpoint.save_top_k, checkpoint.save_last) == (1, True)


def test_the_run_is_told_once_though_an_error_follows_its_end(said: list[str]):
    watch = callback(sampler=copies_from(0), act="raise", **MANY)
    for _ in range(2):
        with pytest.raises(AlarmError):
            fit(watch)
        assert sum("memorization by epoch" in line for line in said) == 1
        said.clear()


def test_a_trial_run_after_an_alarm_raises_none():
    watch = callback(sampler=copies_from(0), act="raise", **MANY)
    with pytest.raises(AlarmError):
        fit(watch)
    fit(watch, fast_dev_run=True)


@pytest.mark.parametrize("act", ["exit", ["stop", "halt"], 3])
def test_another_act_is_refused(act: Any):
    with pytest.raises(OptionError, match=r"needed act out of \['stop', 'veto', 'raise'\]"):
        callback(act=act)


def test_the_last_clean_checkpoint_is_found_by_its_metadata_as_the_docs_say(tmp_path: Path):
    """Recipe of the docs: keep all, stop at the alarm, release the last one without it."""
    stop = EarlyStopping("memorization/alarm", mode="max", stopping_threshold=0.5, patience=10**6)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer = fit(callback(sampler=copies_from(2), **MANY), stop, checkpoint, max_epochs=9, enable_checkpointing=True)
    assert trainer.current_epoch == 3
    kept = sorted(tmp_path.glob("*.ckpt"))
    clean = [path.name for path in kept if not torch.load(path, weights_only=True)["memorization"]["alarm"]]
    assert clean == ["epoch=0.ckpt", "epoch=1.ckpt"]


def test_test_scores_too():
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    module = type("Tested", (Tiny,), {"test_step": lambda self, batch, index: None})()
    watch = callback(detector=detector)
    trainer = make_trainer(watch)
    trainer.test(module, loader(HELD_OUT), verbose=False)
    assert scalars(trainer)["scored"] == 1
    assert len(watch.history) == 1
    with pytest.warns(UserWarning, match=r"test\(\) was called without a fitted detector"):
        make_trainer(callback()).test(module, loader(HELD_OUT), verbose=False)


def test_another_run_begins_without_the_alarm_of_the_last_one():
    watch = callback(sampler=copies_from(0), **MANY)
    assert scalars(fit(watch))["alarm"] == 1
    watch._drawing.sampler = lambda n: images(n, 77)
    trainer = fit(watch)
    assert scalars(trainer)["alarm"] == 0
    assert watch.state_dict()["looks"] == 1
