"""The house is as pyproject.toml says: imports point down, nothing goes in circles, files and folders stay small."""

import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter import cli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mi_callback"
LINES, FILES = 400, 15


def floors() -> list[set[str]]:
    """Modules and rooms from the top floor down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [{name.strip() for name in layer.replace("|", ":").split(":")} for layer in layers]


def test_imports_point_down_and_nothing_goes_in_circles(monkeypatch):
    # Imports under TYPE_CHECKING count, and a floor that names a module which does not exist is an error.
    monkeypatch.chdir(ROOT)
    assert cli.lint_imports(cache_dir=None) == cli.EXIT_STATUS_SUCCESS


def test_every_module_has_a_floor_and_no_floor_names_one_that_is_gone():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert set.union(*floors()) == modules - {"__init__"}


def test_an_import_that_points_up_is_seen_even_under_type_checking(tmp_path):
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "above.py").write_text("from house import below\n")
    (package / "below.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.above\n")
    contract = "[importlinter]\nroot_package = house\n[importlinter:contract:1]\nname = down\ntype = layers\n"
    (tmp_path / ".importlinter").write_text(contract + "containers = house\nlayers =\n    above\n    below\n")
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter import cli; sys.exit(cli.lint_imports(cache_dir=None))",
    ]
    assert subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True).returncode == 1


def test_no_two_modules_import_each_other():
    graph = grimp.build_graph("mi_callback", cache_dir=None)
    circular = {
        name
        for name in graph.modules
        for imported in graph.find_modules_directly_imported_by(name)
        if graph.chain_exists(imported, name)
    }
    assert circular == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("*.py")}), ids=lambda path: path.name)
def test_a_folder_holds_at_most_15_files(folder):
    assert len(list(folder.glob("*.py"))) - (folder / "__init__.py").exists() <= FILES
