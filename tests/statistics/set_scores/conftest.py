"""Features of training images, novel ones and copies."""

import pytest
import torch


@pytest.fixture
def draw(generator):
    """Images of one distribution: `(n, d)` standard normal features, new ones at every call."""
    return lambda n, d=8: torch.randn(n, d, generator=generator)


@pytest.fixture
def copies_of():
    """Some rows of a training set, drawn at random, with a little noise."""

    def make(train: torch.Tensor, n: int, noise: float = 0.0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        rows = torch.randint(len(train), (n,), generator=generator)
        return train[rows] + noise * torch.randn(n, train.shape[1], generator=generator)

    return make
