"""What people expect of a package: it builds whole, imports quickly, and says how to cite it and whom to tell."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import mi_callback

ROOT = Path(__file__).parents[1]
CARRIED = (
    "mi_callback/py.typed",
    "mi_callback/encoders/weights/bundled.safetensors",
    "mi_callback/encoders/weights/MODEL_CARD.md",
    "mi_callback/conf/callbacks/memorization.yaml",
    "mi_callback/conf/mi_callback/callback/memorization.yaml",
    "mi_callback/conf/mi_callback/detector/default.yaml",
    "mi_callback/conf/mi_callback/encoder/mri_core.yaml",
    "mi_callback/reporting/document/report.schema.json",
    "mi_callback/reporting/document/templates/page.html.j2",
    "mi_callback/reporting/document/templates/style.css",
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
    assert (ROOT / "mi_callback/encoders/weights/bundled.safetensors").stat().st_size <= 12e6


def test_malicious_lightning_releases_are_excluded():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for packages in (project["dependencies"], project["optional-dependencies"]["dev"]):
        (lightning,) = [p for p in packages if re.match(r"(pytorch-)?lightning", p)]
        assert "!=2.6.2" in lightning
        assert "!=2.6.3" in lightning


def test_every_extra_is_named_and_all_never_holds_both_faiss():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"wandb", "faiss", "gpu", "hf", "demo", "docs", "dev", "all"} <= extras.keys()
    assert not any("gpu" in package for package in extras["all"] + extras["dev"])


def test_constraints_pin_every_direct_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["demo"],
        *project["optional-dependencies"]["docs"],
        *project["optional-dependencies"]["dev"],
    ]
    names = {re.match(r"[A-Za-z0-9-]+", package).group().lower() for package in wanted} - {"mi-callback"}
    assert names <= pinned, names - pinned


def run(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_the_package_takes_less_than_half_a_second_and_no_torch():
    code = """
import sys, time
began = time.perf_counter()
import mi_callback, mi_callback.conf
print(time.perf_counter() - began)
assert "torch" not in sys.modules
"""
    assert min(float(run(code)) for _ in range(3)) < 0.5  # the least: other programs may run beside the tests


def test_what_is_not_needed_is_not_imported():
    """No library of a format by readers, no transformers by encoders, Lightning by callback and metric alone."""
    run(
        "import sys, mi_callback.images.files\n"
        "formats = {'pydicom', 'nibabel', 'PIL'}\n"
        "assert not formats & sys.modules.keys(), formats & sys.modules.keys()\n"
        "import mi_callback.encoders.huggingface\n"
        "from mi_callback import MemorizationDetector, Scores, audit, build_encoder\n"
        "heavy = {'lightning', 'pytorch_lightning', 'torchmetrics', 'monai', 'transformers', 'wandb', 'faiss'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )


def test_every_public_name_is_there():
    for name in mi_callback.__all__:
        assert getattr(mi_callback, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        mi_callback.Detector  # noqa: B018


def test_citation_file_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2 requires
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == mi_callback.__version__
    assert citation["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["url"] == "https://arxiv.org/abs/2602.13066"


def test_changelog_speaks_of_this_version():
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert any(mi_callback.__version__ in "".join(heading) for heading in headings)
    kinds = set(re.findall(r"^### (\w+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("form", ["bug", "false_verdict"])
def test_issue_forms_ask_for_no_patient_data(form):
    body = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / f"{form}.yml").read_text())["body"]
    assert "No patient data" in body[0]["attributes"]["value"]
    assert all(option["required"] for option in body[-1]["attributes"]["options"])


def test_ci_runs_every_python_that_is_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = {text.rsplit(" ", 1)[1] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)}
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == promised


def test_nothing_committed_names_a_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    for file in files:
        if Path(file).suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ""} and file != __file__:
            text = (ROOT / file).read_text()
            assert not re.search(r"/(home|root|work|Users)/\w", text), file
