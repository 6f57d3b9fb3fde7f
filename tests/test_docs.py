"""What the README shows runs; docstring examples do; the tables name what is logged."""

import doctest
import importlib
import re
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from mi_callback import MemorizationDetector

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


class Slices(torch.utils.data.Dataset):
    def __init__(self, first_subject: int, n: int):
        generator = torch.Generator().manual_seed(first_subject)
        self.images = torch.rand(n, 1, 24, 24, generator=generator)
        self.subjects = [f"s{first_subject + i}" for i in range(n)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"image": self.images[i], "subject": self.subjects[i]}


class Generator(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.decode = torch.nn.Linear(4, 24 * 24)

    def sample(self, n):
        return self.decode(torch.randn(n, 4, device=self.device)).view(n, 1, 24, 24)

    def training_step(self, batch, _):
        return (self.sample(len(batch["image"])) - batch["image"]).square().mean()

    def validation_step(self, batch, _): ...

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Slices(0, 30), 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Slices(100, 25), 8)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.strip().splitlines()[-1][:40] for block in BLOCKS])
def test_readme_code_runs_as_it_stands(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, held_out = Slices(0, 30), Slices(100, 25)
    names = {
        "model": Generator(), "datamodule": Data(), "generated": torch.rand(6, 1, 24, 24),
        "train": train.images, "train_subjects": train.subjects,
        "held_out": held_out.images, "held_out_subjects": held_out.subjects,
    }  # fmt: skip
    if "scores" in block and "detector.score(" not in block:  # goes on from the block before
        fitted = MemorizationDetector(alpha=0.1).fit(train.images, train.subjects, held_out.images, held_out.subjects)
        names |= {"detector": fitted, "generated": train.images[:3], "scores": fitted.score(train.images[:3])}
    exec("from mi_callback import MemorizationCallback", names)
    exec(compile(block, "README.md", "exec"), names)
    if "trainer" in names:
        assert "memorization/mi_median" in names["trainer"].callback_metrics


def test_readme_names_every_logged_scalar():
    train, held_out = Slices(0, 20), Slices(100, 25)
    detector = MemorizationDetector(contrast=True).fit(train, held_out=held_out)
    detector.power(2, changes=["exact"])
    generated = torch.rand(4, 1, 24, 24)
    for key in (*detector.score(generated).summary(), *detector.set_scores(generated), "alarm"):
        assert f"`{key}`" in README, key


def test_readme_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target


@pytest.mark.parametrize("module", ["conformal", "multiplicity", "rates.certificates", "set_scores.vendi"])
def test_docstring_examples_run(module):
    failed, tried = doctest.testmod(
        importlib.import_module(f"mi_callback.statistics.{module}"), extraglobs={"torch": torch}
    )
    assert tried > 0
    assert failed == 0
