"""Every example of training runs for a few steps, and its generator is watched."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from mi_callback import MemorizationCallback, build_encoder

FOLDER = Path(__file__).parents[1] / "examples" / "training"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("people", "cli"))
OWN = {
    "conditional": {"condition_key": "label"},
    "ddpm_monai": {"sampler": "DiffusionSampler"},
    "latent_diffusion_monai": {"sampler": "DiffusionSampler"},
    "volumes": {"sampler": "DiffusionSampler"},
    "diffusers_unet": {"sampler": "DiffusersSampler"},
}
"""What examples ask of the callback, beside what makes it quick here."""

QUICK: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu", "num_sanity_val_steps": 0}
QUICK |= dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == FOLDER:
            del sys.modules[name]


def quick(**own: Any) -> MemorizationCallback:
    from mi_callback.lightning import samplers

    if "sampler" in own:
        own["sampler"] = getattr(samplers, own["sampler"])(steps=2)
    return MemorizationCallback(n_samples=8, power=0, **own)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_and_its_samples_are_scored(name: str, examples: Any, said: list[str]):
    if name == "diffusers_unet":
        pytest.importorskip("diffusers")
    watch = quick(**OWN.get(name, {}))
    encoder = build_encoder("pixels", size=16)
    if name == "volumes":
        encoder = build_encoder("slices", encoder="pixels", size=16, slices=2)
    watch._prepared.options = {"verify": False, "encoder": encoder, "poses": "none"}
    examples(name).main(watch, **QUICK)
    assert len(watch.history) == 1
    assert watch.scores.mi.isfinite().all()
    averaged = {"vae": "the averaged weights of EMAWeightAveraging", "diffusers_unet": "the weights of ema"}
    assert any(averaged.get(name, "with the weights as they are trained") in line for line in said)


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_runs_with_the_line_that_it_names(examples: Any):
    pytest.importorskip("jsonargparse")
    flags = [f"--trainer.{key}={str(value).lower()}" for key, value in QUICK.items()]
    detector = '{"verify": false, "encoder": "pixels"}'
    watch = ["--trainer.callbacks+=mi_callback.MemorizationCallback", "--trainer.callbacks.n_samples=4"]
    more = ["--trainer.callbacks.power=0", f"--trainer.callbacks.detector={detector}"]
    cli = examples("cli").main(["fit", *flags, *watch, *more])
    assert any(len(one.history) for one in cli.trainer.callbacks if isinstance(one, MemorizationCallback))
    assert watch[0] in (FOLDER / "cli.py").read_text()


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(examples: Any, monkeypatch: pytest.MonkeyPatch):
    matplotlib.use("Agg")
    cells = json.loads((FOLDER / "watch.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    quicker = "n_samples=4, power=0, detector={'verify': False, 'encoder': 'pixels'}"
    assert "n_samples=32, power=0" in code
    exec(code.replace("n_samples=32, power=0", quicker), {})
