"""The Vendi score: the definition, and known numbers of distinct images."""

import math

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.statistics.set_scores.vendi import vendi

pytestmark = pytest.mark.numeric


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double()) / math.sqrt(float(a.double() @ a.double()) * float(b.double() @ b.double()))


# Definition


@pytest.mark.parametrize(("m", "d"), [(5, 9), (20, 4), (1, 3)])
def test_vendi_is_the_exponential_of_the_entropy_of_the_cosine_matrix(draw, m, d):
    x = draw(m, d)
    cosines = torch.tensor([[cosine(a, b) for b in x] for a in x], dtype=torch.float64)
    entropy = -sum(v * math.log(v) for v in torch.linalg.eigvalsh(cosines / m).tolist() if v > 1e-14)
    assert vendi(x) == pytest.approx(math.exp(entropy), abs=1e-9)


# Promise


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("d", [6, 60])
def test_vendi_counts_distinct_images(k, d):
    assert vendi(torch.eye(d)[:k].repeat(5, 1) * 7) == pytest.approx(k, abs=1e-9)


def test_vendi_counts_images_without_features_as_similar_to_nothing():
    assert vendi(torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 0]])) == pytest.approx(
        math.exp(0.5 * math.log(2) + 0.5 * math.log(4))
    )


# Refusal


def test_vendi_refuses_nothing_and_broken_features():
    with pytest.raises(DataError, match="at least 1 generated image for a set score; 0 came"):
        vendi(torch.empty(0, 3))
    with pytest.raises(DataError, match="needed finite generated features"):
        vendi(torch.tensor([[float("nan")]]))
    with pytest.raises(DataError, match="generated has 0 a row"):
        vendi(torch.empty(3, 0))
