"""Wheel and sdist build, and carry weights, configs and the Hydra plugin."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CARRIED = (
    "mi_callback/encoders/weights/bundled.safetensors",
    "mi_callback/encoders/weights/MODEL_CARD.md",
    "mi_callback/conf/callbacks/memorization.yaml",
    "mi_callback/conf/audit.yaml",
    "mi_callback/conf/encoders.yaml",
    "hydra_plugins/mi_callback/search_path.py",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out


@pytest.mark.parametrize("file", CARRIED)
def test_wheel_and_sdist_carry(built, file):
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    assert file in zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/" + file) for name in archive.getnames())


def test_the_wheel_works_from_an_empty_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import torch, mi_callback; assert mi_callback.__file__.startswith(sys.path[0])\n"
        "encoder = mi_callback.build_encoder('bundled')\n"
        "print({k: tuple(v.shape) for k, v in encoder(torch.rand(2, 1, 96, 96)).items()})"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "(2, 192)" in ran.stdout


def test_weights_are_small_enough_to_ship():
    assert (ROOT / CARRIED[0]).stat().st_size <= 12e6


def test_malicious_lightning_releases_are_excluded():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for packages in (project["dependencies"], project["optional-dependencies"]["dev"]):
        (lightning,) = [p for p in packages if re.match(r"(pytorch-)?lightning", p)]
        assert "!=2.6.2" in lightning
        assert "!=2.6.3" in lightning


def test_every_extra_is_named_and_all_never_holds_both_faiss():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"wandb", "faiss", "gpu", "hf", "demo", "dev", "all"} <= extras.keys()
    assert not any("gpu" in package for package in extras["all"] + extras["dev"])


def test_constraints_pin_every_direct_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["demo"],
        *project["optional-dependencies"]["dev"],
    ]
    names = {re.match(r"[A-Za-z0-9-]+", package).group().lower() for package in wanted} - {"mi-callback"}
    assert names <= pinned, names - pinned


def test_nothing_committed_names_a_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    for file in files:
        if Path(file).suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ""} and file != __file__:
            text = (ROOT / file).read_text()
            assert not re.search(r"/(home|root|work|Users)/\w", text), file
