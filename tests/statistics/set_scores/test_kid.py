"""KID: the definition, and two samples of one distribution."""

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from mi_callback.statistics.set_scores import features
from mi_callback.statistics.set_scores.kid import kid

pytestmark = pytest.mark.numeric


def naive_kid(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a, b):
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    def within(rows):
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(across) / len(across)


# Definition


@pytest.mark.parametrize("block", [1, 2**24])
@pytest.mark.parametrize(("n", "m"), [(9, 14), (12, 12), (2, 2)])
def test_kid_averages_the_kernel_over_all_pairs_of_different_images(draw, n, m, block, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", block)
    x, y = draw(n), draw(m) + 0.5
    assert kid(x, y) == pytest.approx(naive_kid(x, y), abs=1e-10)
    if n == m:
        assert kid(x, y) == pytest.approx(float(poly_mmd(x.double(), y.double())), abs=1e-10)


# Promise


def test_kid_of_one_distribution_is_zero_in_expectation(draw):
    found = torch.tensor([kid(draw(20), draw(31)) for _ in range(300)])
    assert float(found.mean()) == pytest.approx(0, abs=4 * float(found.std()) / 300**0.5)
    assert min(found) < 0 < max(found)
    assert kid(draw(100), draw(100) + 1) > 10 * float(found.std())
