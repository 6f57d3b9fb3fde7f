"""Saved models and images for all tests of this family."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers_models import CONFIGS, SIDE, saved

from mi_callback.encoders import HookedEncoder
from mi_callback.encoders.huggingface import build_huggingface


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a saved model of a family; made once."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = saved(CONFIGS[kind](), tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


@pytest.fixture(scope="session")
def encoder_of(folders) -> Callable[[str], HookedEncoder]:
    """The encoder of a family with its first two and its last hidden state; made once, since it has no state."""
    return cache(lambda kind: build_huggingface(folders(kind), layers=[0, 1, -1]))


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=generator)
