"""The trainings of encoder and descriptor: a run goes on where it stopped, learns, and writes weights and a card."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from factories import texture
from PIL import Image
from safetensors.torch import load_file

import mi_callback
from mi_callback.encoders import build_encoder
from mi_callback.encoders.bundled import widths_of
from mi_callback.encoders.descriptor import copy_descriptor

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDTHS = (4, 4, 8, 8)
TEACHER = Path(mi_callback.__file__).parent / "encoders/weights/descriptor.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two slices of each of eight subjects."""
    folder = tmp_path / "slices"
    folder.mkdir()
    names = [f"{subject}_{position}.png" for subject in range(8) for position in range(2)]
    for name, image in zip(names, (texture(16, side=48)[:, 0] * 255).byte().numpy(), strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "manifest.csv").write_text("file,subject\n" + "".join(f"{name},p{name[0]}\n" for name in names))
    return folder


def test_a_run_goes_on_where_it_stopped_and_writes_weights_and_a_card(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    learning, slices = (importlib.import_module(f"encoder_training.{name}") for name in ("learning", "slices"))
    state = tmp_path / "state.pt"
    begun = learning.EncoderTraining(Namespace(seed=0, widths=WIDTHS, state=state, steps=1))
    begun.run([slices.load(str(folder))])
    assert begun.step == 1

    out = tmp_path / "out"
    options = [f"--out={out}", f"--state={state}", "--steps=2", "--threads=1", "--widths", *map(str, WIDTHS)]
    monkeypatch.setattr(sys, "argv", ["train_encoder.py", str(folder), *options])
    importlib.import_module("train_encoder").main()

    saved = torch.load(state, weights_only=True)
    assert [step for step, _ in saved["history"]] == [1, 2]
    trained = build_encoder("bundled", checkpoint=out / "bundled.safetensors").network.state_dict()
    before = begun.model.network.state_dict()
    assert all(torch.equal(value, saved["model"][f"network.{key}"]) for key, value in trained.items())
    assert any(not torch.equal(value, before[key]) for key, value in trained.items())
    card = (out / "MODEL_CARD.md").read_text()
    assert "2 steps" in card
    assert "| rotation_15 |" in card


@pytest.mark.parametrize("teacher", [None, TEACHER], ids=["alone", "from a teacher"])
def test_the_descriptor_learns_goes_on_where_it_stopped_and_writes_weights_and_a_card(
    folder, tmp_path, monkeypatch, teacher
):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("descriptor", "distilling", "slices")
    descriptor, distilling, slices = (importlib.import_module(f"encoder_training.{name}") for name in names)
    state = tmp_path / "state.pt"
    training = descriptor.DescriptorTraining if teacher is None else distilling.Distillation
    begun = training(Namespace(seed=0, widths=WIDTHS, teacher=teacher, state=state, steps=1))
    before = {key: value.clone() for key, value in begun.model.state_dict().items()}
    begun.run([slices.load_thumbnails(str(folder))])
    assert begun.step == 1

    out = tmp_path / "out"
    options = [f"--out={out}", f"--state={state}", "--steps=2", "--threads=1", "--widths", *map(str, WIDTHS)]
    options += [] if teacher is None else [f"--teacher={teacher}"]
    monkeypatch.setattr(sys, "argv", ["train_descriptor.py", str(folder), *options])
    importlib.import_module("train_descriptor").main()

    saved = torch.load(state, weights_only=True)
    assert [step for step, _ in saved["history"]] == [1, 2]
    assert not torch.equal(saved["model"]["head.weight"], before["head.weight"])
    trained = copy_descriptor(out / "descriptor.safetensors").state_dict()
    assert torch.equal(trained["head.weight"], saved["model"]["head.weight"])
    card = (out / "DESCRIPTOR_CARD.md").read_text()
    assert "2 steps" in card
    assert "| rotation_15 |" in card


def test_all_channels_of_a_descriptor_are_that_descriptor(monkeypatch, generator):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pruned, weights = importlib.import_module("encoder_training.distilling").pruned, load_file(TEACHER)
    images, teacher = torch.rand(4, 1, 64, 64, generator=generator), copy_descriptor()
    whole, some = pruned(weights, widths_of(weights, WIDTHS)).eval(), pruned(weights, WIDTHS).eval()
    assert torch.allclose(whole(images), teacher(images), atol=1e-5)
    assert widths_of(some.state_dict(), WIDTHS) == WIDTHS
