"""Every config composes, instantiates, and is found from a user's own Hydra app."""

import inspect
import subprocess
import sys
from pathlib import Path
from pydoc import locate

import pytest
import torch
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf.errors import MissingMandatoryValue

from mi_callback import MemorizationCallback, MemorizationDetector
from mi_callback.encoders import Encoder, entry
from mi_callback.lightning.samplers import ReadySampler

ROOT = Path(__file__).parents[1]
CONF = ROOT / "mi_callback" / "conf" / "mi_callback"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str):
    with initialize_config_module(config_module="mi_callback.conf", version_base="1.3"):
        return compose(overrides=list(overrides))


def folders(path: Path) -> set[str]:
    return {path.name for path in path.iterdir() if path.is_dir() and path.name != "__pycache__"}


def test_only_the_group_of_callbacks_is_outside_the_namespace():
    # A group of a user's own app of the same name would be shadowed.
    assert folders(CONF.parent) == {"callbacks", "mi_callback"}
    assert folders(CONF) == {"callback", "detector", "encoder", "index", "logger", "null", "preset", "sampler"}


def of_the_hub(name: str) -> bool:
    return entry(composed(f"+mi_callback/encoder@encoder={name}").encoder.name).builder == entry("huggingface").builder


def needs_files(name: str) -> bool:
    """Whether a config of an encoder leaves keys to the user (`???`); the tests of its family fill them in."""
    return "???" in (CONF / "encoder" / f"{name}.yaml").read_text()


@pytest.mark.filterwarnings("ignore:the weights of")
@pytest.mark.parametrize("name", [name for name in names("encoder") if not needs_files(name)])
def test_every_encoder_config_builds_an_encoder(name, tmp_path):
    config = composed(f"+mi_callback/encoder@encoder={name}").encoder
    if of_the_hub(name):  # a small one of random weights in its place
        transformers = pytest.importorskip("transformers")
        channels = config.get("channels", 1 if name == "ct" else 3)
        small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 1, "image_size": 28}
        with torch.random.fork_rng():
            network = transformers.Dinov2Model(transformers.Dinov2Config(**small, num_channels=channels))
        network.save_pretrained(tmp_path)
        config = composed(f"+mi_callback/encoder@encoder={name}", f"encoder.model={tmp_path}").encoder
    encoder = instantiate(config)
    assert isinstance(encoder, Encoder)
    if of_the_hub(name):
        asked = config.intensity if isinstance(config.intensity, str) else tuple(config.intensity)
        assert encoder.intensity == asked


@pytest.mark.parametrize("name", filter(of_the_hub, names("encoder")))
def test_a_config_of_the_hub_says_what_the_catalogue_says_of_its_weights(name):
    config = composed(f"+mi_callback/encoder@encoder={name}").encoder
    known = entry(config.name)
    assert config.get("model") == known.options.get("model")
    for option in ("mean", "std", "size", "standardise"):
        if option in known.options and option in config:
            values = config[option]
            assert set([values] if isinstance(values, (bool, int, float)) else values) == {known.options[option]}


@pytest.mark.parametrize("name", [name for name in names("encoder") if needs_files(name)])
def test_an_encoder_config_that_needs_files_says_so(name):
    with pytest.raises(MissingMandatoryValue, match="encoder"):
        instantiate(composed(f"+mi_callback/encoder@encoder={name}").encoder)


@pytest.mark.parametrize("name", names("detector"))
def test_every_detector_config_names_the_arguments_of_the_detector(name):
    detector = MemorizationDetector(**composed(f"+mi_callback/detector@detector={name}").detector)
    assert detector.null_choice == "auto"  # the key null survives YAML


@pytest.mark.parametrize("name", names("callback"))
def test_every_callback_config_instantiates_with_overrides(name):
    callback = instantiate(
        composed(
            f"+mi_callback/callback@callback={name}", "callback.n_samples=5", "callback.detector.alpha=0.1"
        ).callback
    )
    assert isinstance(callback, MemorizationCallback)
    assert callback.n_samples == 5
    assert callback.detector_options["alpha"] == 0.1


def test_a_users_own_app_finds_the_callback_without_importing_torch(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 1\n")
    (tmp_path / "app.py").write_text(
        "import hydra, sys\n"
        "@hydra.main(version_base='1.3', config_path='conf', config_name='config')\n"
        "def main(config):\n"
        "    assert 'torch' not in sys.modules\n"
        "    print(sorted(config.callbacks), config.callbacks.memorization.n_samples)\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "app.py", "+callbacks=memorization", "callbacks.memorization.n_samples=7"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "['memorization'] 7"


@pytest.mark.parametrize("group", ["detector", "encoder", "callback", "audit"])
def test_groups_of_a_users_own_app_are_its_own(tmp_path, group):
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "mine.yaml").write_text("mine: true\n")
    (tmp_path / "conf" / "config.yaml").write_text(f"defaults:\n  - {group}: mine\n")
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        config = compose("config", ["+callbacks=memorization"])
        choices = GlobalHydra.instance().config_loader().get_group_options(group)
    assert config[group] == {"mine": True}
    assert choices == ["mine"]
    assert config.callbacks.memorization.detector.alpha == 0.05


HOW = {"null": ".detector", "index": ".detector", "preset": "", "sampler": ".sampler"}
"""Where the groups go, below the callback."""

CHOICES = [(group, name) for group in HOW for name in names(group)]


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=[f"{group}={name}" for group, name in CHOICES])
def test_every_choice_of_a_group_has_an_effect_in_an_app_that_has_callbacks_of_its_own(tmp_path, group, name):
    """An app of the shape of the well-known template of Lightning and Hydra."""
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "default.yaml").write_text(
        "early: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: memorization/mi_max}\n"
    )
    (tmp_path / "train.yaml").write_text("defaults:\n  - _self_\n  - callbacks: default\nlogger: {}\n")
    where = f"callbacks.memorization{HOW[group]}"
    more = [f"{where}.config=bundle.json"] if name == "bundle" else []
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        chosen = compose("train", ["callbacks=[default,memorization]", f"+mi_callback/{group}@{where}={name}", *more])
        plain = compose("train", ["callbacks=[default,memorization]"])
    callbacks = instantiate(chosen.callbacks)
    assert type(callbacks.memorization) is MemorizationCallback
    assert type(callbacks.early).__name__ == "EarlyStopping"
    if (group, name) != ("preset", "default"):
        assert chosen.callbacks.memorization != plain.callbacks.memorization
    if group == "sampler":
        assert isinstance(callbacks.memorization._drawing.sampler, ReadySampler)


@pytest.mark.parametrize("name", names("logger"))
def test_every_logger_of_the_group_takes_what_its_config_says(name):
    config = composed(f"+mi_callback/logger@logger={name}").logger
    assert set(config) - {"_target_"} <= set(inspect.signature(locate(config._target_)).parameters)


def test_every_option_of_a_sampler_is_in_its_config():
    for name in names("sampler"):
        config = composed(f"+mi_callback/sampler@sampler={name}").sampler
        known = inspect.signature(locate(config._target_)).parameters
        assert list(config)[1:] == list(known)
        given = {key: value.default for key, value in known.items() if value.default is not inspect.Parameter.empty}
        assert {key: config[key] for key in given} == given


def test_presets_can_be_swept():
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweep = OverridesParser.create().parse_overrides(["+mi_callback/preset@callbacks.memorization=fast,strict"])
    runs = [run for batch in BasicSweeper.split_arguments(sweep, max_batch_size=None) for run in batch]
    counts = [composed("+callbacks=memorization", *run).callbacks.memorization.n_samples for run in runs]
    assert counts == [64, 512]


def test_hydra_zen_builds_a_callback_with_all_arguments():
    zen = pytest.importorskip("hydra_zen")
    config = zen.builds(MemorizationCallback, populate_full_signature=True)
    known = inspect.signature(MemorizationCallback).parameters
    assert set(known) <= set(vars(config()))
    assert zen.instantiate(config(n_samples=5, act=["stop"])).n_samples == 5


def test_an_encoder_of_the_group_goes_into_the_callback_as_the_readme_says():
    where = "callbacks.memorization.detector.encoder"
    config = composed("+callbacks=memorization", f"+mi_callback/encoder@{where}=mri_core", f"{where}.checkpoint=f.pth")
    encoder = config.callbacks.memorization.detector.encoder
    assert (encoder.name, encoder.checkpoint) == ("mri_core", "f.pth")


def test_the_demo_composes_with_the_readme_overrides():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("demo", ["callback.n_samples=128", "encoder=pixels"])
    callback = instantiate(config.callback)
    assert callback.n_samples == 128
    assert callback.detector_options["encoder"] == "pixels"
