"""Several callbacks in one Trainer: each logs, remembers and alarms under its own name."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from watching import TRAIN, callback, copies, fit, images, make_trainer

from mi_callback import MemorizationCallback
from mi_callback.errors import OptionError

MANY = {"n_samples": 16, "sample_batch_size": 16}


def pair(**of_the_second: object) -> tuple[MemorizationCallback, MemorizationCallback]:
    """One that sees copies, and one of another name that sees novel images."""
    return (
        callback(sampler=copies(*range(16)), **MANY),
        callback(sampler=lambda n: images(n, 77), name="t1", **MANY, **of_the_second),
    )


def test_each_logs_reports_and_remembers_under_its_own_name(tmp_path: Path, said: list[str]):
    loggers = [CSVLogger(tmp_path, "csv", ""), TensorBoardLogger(tmp_path, "tensorboard", "")]
    copying, novel = pair(every_n_validations=2)
    trainer = fit(copying, novel, logger=loggers, max_epochs=3)
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert (logged["memorization/alarm"], logged["memorization_t1/alarm"]) == (1, 0)
    assert logged["memorization/mi_max"] == pytest.approx(float(copying.scores.mi.max()))
    assert logged["memorization_t1/mi_max"] == pytest.approx(float(novel.scores.mi.max()))
    assert {path.parent.name for path in tmp_path.rglob("report.json")} == {"memorization", "memorization_t1"}
    assert any(line.startswith("memorization t1: epoch 2: clean") for line in said)

    trainer.save_checkpoint(path := tmp_path / "run.ckpt")
    kept = torch.load(path, weights_only=True)
    assert (kept["memorization"]["alarm"], kept["memorization_t1"]["alarm"]) == (True, False)
    resumed = pair(every_n_validations=2)
    fit(*resumed, max_epochs=4, fit_options={"ckpt_path": path})
    assert [one.state_dict() for one in resumed] == [
        {"validations": 4, "looks": 4, "alarmed": True},
        {"validations": 4, "looks": 3, "alarmed": False},
    ]


def test_tensorboard_draws_the_curves_of_all_and_mixes_none(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    logger = TensorBoardLogger(tmp_path, "tensorboard", "")
    fit(*pair(), logger=logger)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["memorization", "memorization_t1"]
    for category in layout.category:
        tags = [tag for chart in category.chart for tag in chart.multiline.tag]
        assert tags
        assert all(f"{category.title}/" in tag for tag in tags)
    assert {"memorization_media/mi", "memorization_t1_media/mi"} <= set(events.Tags()["histograms"])


@pytest.mark.parametrize("first", [0, 1])
def test_what_two_of_them_vetoed_is_put_back_as_it_was(tmp_path: Path, first: int):
    def later(epoch: int):
        return lambda module, n: TRAIN[:n] if module.current_epoch >= epoch else images(n, 77)

    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_last=True)
    watching = [
        callback(sampler=later(1), act="veto", **MANY),
        callback(sampler=later(2), act="veto", name="b", **MANY),
    ]
    if first:
        watching.reverse()
    fit(*watching, checkpoint, max_epochs=4, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["epoch=0.ckpt", "last.ckpt"]
    assert (checkpoint.save_top_k, checkpoint.save_last) == (-1, True)


# Refusal


def test_two_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `MemorizationCallback`"):
        make_trainer(callback(), callback())
    trainer = make_trainer(callback(name="a"))
    second = callback(name="a")
    trainer.callbacks.append(second)  # past the check of the Trainer
    with pytest.raises(OptionError, match=r"two log under memorization_a/\. Name one of them"):
        second.setup(trainer, None, "fit")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "media", "t1_media", 3])
def test_a_name_that_would_not_keep_them_apart_is_refused(name: object):
    with pytest.raises(OptionError, match="needed name of letters, digits and underscores"):
        callback(name=name)
