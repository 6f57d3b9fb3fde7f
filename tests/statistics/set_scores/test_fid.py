"""FID: the definition, and equal sets."""

import math

import pytest
import torch
from monai.metrics.fid import get_fid_score

from mi_callback.statistics.set_scores.fid import fid

pytestmark = pytest.mark.numeric

# Definition


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 6), (40, 4, 6), (5, 7, 12), (2, 2, 3), (30, 9, 1)])
def test_fid_is_the_frechet_distance_of_gaussians(draw, n, m, d):
    x, y = draw(n, d) + 1, 2 * draw(m, d)
    moments = [(f.double().mean(dim=0), torch.cov(f.double().T).reshape(d, d)) for f in (x, y)]
    (mean_x, c_x), (mean_y, c_y) = moments
    values, vectors = torch.linalg.eigh(c_x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ c_y @ root).clamp_min(0).sqrt().sum()
    expected = (mean_x - mean_y).square().sum() + c_x.trace() + c_y.trace() - 2 * shared
    assert fid(x, y) == pytest.approx(float(expected), abs=1e-6)
    if d > 1:
        assert fid(x, y) == pytest.approx(float(get_fid_score(y, x)), abs=1e-6)


def test_fid_of_known_gaussians():
    # Two points at ±a on an axis have the variance 2a²; √ of it counts per axis.
    x, y = torch.tensor([[-1.0, 0], [1, 0]]), torch.tensor([[-3.0, 5], [3, 5]])
    assert fid(x, y) == pytest.approx(25 + (math.sqrt(18) - math.sqrt(2)) ** 2)


# Promise


@pytest.mark.parametrize(("n", "d"), [(50, 4), (10, 40)])
def test_fid_of_a_set_with_itself_is_zero(draw, n, d):
    x = draw(n, d)
    assert fid(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    assert fid(x, x.flip(0)) >= 0
    assert fid(x, x + 2) == pytest.approx(4 * d, rel=1e-5)
