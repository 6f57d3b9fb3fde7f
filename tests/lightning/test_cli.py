"""LightningCLI: every argument can be written in YAML, is documented, and arrives."""

import inspect
from pathlib import Path
from typing import Any

import lightning.pytorch as lp
import pytest
import yaml
from torch.utils.data import DataLoader
from watching import HELD_OUT, TRAIN, Tiny, loader

from mi_callback import MemorizationCallback
from mi_callback.lightning import samplers

jsonargparse = pytest.importorskip("jsonargparse")

READY = [getattr(samplers, name) for name in samplers.__all__ if name.endswith("Sampler") and name[0] in "BDS"]


class Data(lp.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loader(TRAIN)

    def val_dataloader(self) -> DataLoader:
        return loader(HELD_OUT)


@pytest.mark.parametrize("kind", [MemorizationCallback, *READY], ids=lambda kind: kind.__name__)
def test_every_argument_has_a_type_and_a_line_of_help(kind: type):
    parser = jsonargparse.ArgumentParser()
    added = parser.add_class_arguments(kind, "own", fail_untyped=True)
    assert {name.removeprefix("own.") for name in added} == set(inspect.signature(kind).parameters)
    helps = {action.dest: action.help for action in parser._actions if action.dest.startswith("own.")}
    assert [name for name, text in helps.items() if not text or text.startswith("(type")] == []


def test_a_run_of_the_command_line_is_watched_with_what_its_yaml_says(tmp_path: Path):
    from lightning.pytorch.cli import LightningCLI

    own: dict[str, Any] = {
        "n_samples": 6,
        "sampler": {"class_path": "mi_callback.lightning.samplers.StepSampler", "init_args": {"step": "predict_step"}},
        "detector": {"encoder": "pixels", "verify": False, "alpha": 0.1},
        "time_limit": 60,
        "act": ["stop", "veto"],
        "condition_key": None,
        "power": 0,
    }
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    config = {"trainer": {"max_epochs": 1, "accelerator": "cpu", "callbacks": [
        {"class_path": "mi_callback.MemorizationCallback", "init_args": own}]} | quiet}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    module = type("Predicting", (Tiny,), {"predict_step": lambda self, batch, index: batch[0] * 0.5})
    options = {"save_config_callback": None, "args": ["fit", "--config", str(tmp_path / "config.yaml")]}
    cli = LightningCLI(module, Data, **options)
    (watch,) = [one for one in cli.trainer.callbacks if isinstance(one, MemorizationCallback)]
    assert len(watch.history) == 1
    assert watch.detector.rule.alpha == 0.1
    assert watch._limit.seconds == 60
    assert watch._acting.acts == ("stop", "veto")
