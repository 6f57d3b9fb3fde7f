"""What a reader of the room relies on: an example that runs in every function, shapes in signatures, sources."""

import ast
import importlib
import inspect
import pkgutil

import pytest

from mi_callback import statistics

MODULES = [module.name for module in pkgutil.walk_packages(statistics.__path__, "mi_callback.statistics.")]


def public_functions(name: str) -> list:
    module = importlib.import_module(name)
    own = inspect.getmembers(module, lambda member: inspect.isfunction(member) and member.__module__ == name)
    return [function for label, function in own if not label.startswith("_")]


FUNCTIONS = [function for name in MODULES for function in public_functions(name)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_every_public_function_shows_an_example_with_what_it_prints(function):
    text = inspect.getdoc(function) or ""
    lines = [line.strip() for line in text.partition("Example:")[2].splitlines() if line.strip()]
    assert any(line.startswith(">>> ") for line in lines), f"{function.__module__}: no example"
    assert any(not line.startswith((">>>", "...")) for line in lines), f"{function.__module__}: nothing is printed"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_tensors_in_signatures_have_shapes(function):
    for name, annotation in inspect.get_annotations(function).items():
        assert "torch.Tensor" not in str(annotation), f"{function.__module__}.{function.__name__}: {name}"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_imported_but_numbers(name):
    tree = ast.parse(inspect.getsource(importlib.import_module(name)))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {module for module in imported if module.startswith("mi_callback")}
    below = (
        "mi_callback.errors",
        "mi_callback.arguments",
        "mi_callback.types",
        "mi_callback.fingerprints",
        "mi_callback.statistics",
    )
    assert all(module.startswith(below) for module in ours), ours
