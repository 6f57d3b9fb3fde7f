"""Shared fixtures: one thread, small networks, and real slices where they are."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


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
