"""Shared fixtures: one thread, small networks, and real slices where they are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

THREADS = int(os.environ.get("MI_CALLBACK_THREADS", "1"))
"""Threads of torch; more than one only where `make test-numeric` asks for it."""

torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(THREADS)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mri() -> Path:
    """Folder of real slices; see the README, "Development"."""
    root = os.environ.get("MI_CALLBACK_DATA")
    if not root:
        pytest.skip("MI_CALLBACK_DATA is not set: no real slices to test on")
    if not Path(root).is_dir():
        pytest.fail(f"MI_CALLBACK_DATA={root} is not a folder")
    return Path(root)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the callback tells its user through the log."""
    from watching import listening

    with listening() as lines:
        yield lines
