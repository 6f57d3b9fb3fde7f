"""Every example in a docstring prints what it says."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "mi_callback"
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text(encoding="utf-8").splitlines())
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_docstring_examples_print_what_they_say(module):
    found = doctest.testmod(importlib.import_module(module), extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
