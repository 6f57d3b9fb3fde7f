"""Imports point only down: the layout of the package is true."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mi_callback"

FLOORS = {
    "cli": 5,
    "callback": 4, "metric": 4, "auditing": 4, "ranking": 4,
    "detector": 3, "nulls": 3, "leaks": 3, "store": 3, "report": 3, "loggers": 3, "sampling": 3, "training_data": 3,
    "evidence": 3, "volumes": 3, "listing": 3,
    "features": 2, "encoders": 2, "scores": 2, "judgement": 2, "retrieval": 2, "regional": 2, "matching": 2,
    "power": 2, "pool": 2,
    "images": 1, "preprocessing": 1, "whitening": 1, "index": 1, "similarity": 1, "registration": 1, "calibration": 1,
    "affine": 1, "free_form": 1, "local_correlation": 1, "copied": 1, "smoothing": 1, "warping": 1, "recolouring": 1,
    "multiplicity": 1, "certificates": 1, "tails": 1, "contrast": 1, "set_scores": 1,
    "edges": 1, "pyramid": 1, "poses": 1, "views": 1, "framing": 1, "regions": 1, "perturbations": 1,
    "errors": 0, "types": 0, "fingerprints": 0, "text_table": 0,
}  # fmt: skip

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent.name == "encoders")


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of the package that `path` imports when it runs (what only the type checker reads is left out)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mi_callback":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mi_callback.")}
    return names


def test_every_module_has_a_floor():
    assert {module_of(path) for path in MODULES} <= FLOORS.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_or_stay_on_the_floor(path):
    above = {name for name in imported(path) if FLOORS.get(name, 0) > FLOORS[module_of(path)]}
    assert not above, f"{path.name} (floor {FLOORS[module_of(path)]}) imports {above} from above"


def test_floors_hold_no_cycle():
    graph = {}
    for path in MODULES:
        graph.setdefault(module_of(path), set()).update(imported(path) - {module_of(path)})
    done: set[str] = set()
    while graph.keys() - done:
        free = {name for name in graph.keys() - done if graph[name] <= done | (graph[name] - graph.keys())}
        assert free, f"cycle among {graph.keys() - done}"
        done |= free


def test_importing_the_package_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, mi_callback, mi_callback.conf; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
