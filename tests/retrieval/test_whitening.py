"""Whitening: every direction counts the same, also when there are fewer images than features."""

import numpy as np
import pytest
import torch
from sklearn.covariance import oas as sklearn_oas

from mi_callback.errors import CalibrationError
from mi_callback.retrieval.whitening import Moments, fit_whitening, oas_shrinkage

pytestmark = pytest.mark.numeric

MODES = ["shrunk", "zca", "pca", "standard", "none"]


def correlated(n: int, d: int, seed: int = 0, shift: float = 3.0) -> torch.Tensor:
    """Gaussian features whose standard deviations span a factor of 30, mixed."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, 1.5, d, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) * scales @ torch.linalg.qr(mix)[0] + shift


def covariance(features: torch.Tensor) -> np.ndarray:
    centred = features.double().numpy() - features.double().numpy().mean(axis=0)
    total = np.zeros((features.shape[1], features.shape[1]))
    for row in centred:
        total += np.outer(row, row)
    return total / len(features)


# Definition


@pytest.mark.parametrize(("n", "d"), [(2, 5), (5, 2), (10, 10), (11, 10), (50, 8), (400, 8), (7, 40)])
def test_the_shrinkage_is_that_of_scikit_learn(n, d):
    features = correlated(n, d)
    expected_covariance, expected = sklearn_oas(features.numpy())
    found = oas_shrinkage(torch.from_numpy(covariance(features)), n)
    assert found == pytest.approx(expected, abs=1e-10)
    fitted = fit_whitening(features, "shrunk")
    assert fitted.shrinkage == pytest.approx(expected, abs=1e-10)
    # W C W = I defines ZCA of the shrunk covariance (up to the sign, which is positive for ZCA).
    matrix = fitted.matrix.numpy()
    assert np.allclose(matrix @ expected_covariance @ matrix, np.eye(d), atol=1e-6)
    assert np.allclose(matrix, matrix.T)
    assert (np.linalg.eigvalsh(matrix) > 0).all()


def test_zca_is_the_inverse_root_of_the_covariance_plus_epsilon():
    features = correlated(100, 6)
    values, vectors = np.linalg.eigh(covariance(features))
    expected = sum(np.outer(v, v) / np.sqrt(w + 0.01) for w, v in zip(values, vectors.T, strict=True))
    assert np.allclose(fit_whitening(features, "zca", epsilon=0.01).matrix.numpy(), expected)


@pytest.mark.parametrize("mode", ["zca", "pca"])
def test_training_features_have_unit_covariance_afterwards(mode):
    features = correlated(200, 6)
    fitted = fit_whitening(features, mode)
    whitened = (features - fitted.mean) @ fitted.matrix
    assert np.allclose(covariance(whitened), np.eye(6), atol=1e-4)


def test_standard_divides_every_feature_by_its_own_deviation():
    features = correlated(50, 4)
    fitted = fit_whitening(features, "standard")
    whitened = ((features - fitted.mean) @ fitted.matrix).numpy()
    for j in range(4):
        column = features[:, j].numpy()
        assert np.allclose(whitened[:, j], (column - column.mean()) / column.std(ddof=1))


@pytest.mark.parametrize("mode", MODES)
def test_inner_products_of_whitened_features_are_cosines(mode):
    features = correlated(60, 5)
    fitted = fit_whitening(features, mode)
    whitened = fitted(features)
    mean, matrix = fitted.mean.numpy(), fitted.matrix.numpy()
    for i, j in [(0, 1), (2, 30), (59, 58), (7, 7)]:
        a, b = ((features[k].numpy() - mean) @ matrix for k in (i, j))
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert float(whitened[i] @ whitened[j]) == pytest.approx(cosine, abs=1e-5)


# Promise


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 30), (5, 30), (30, 30), (31, 30)])
def test_fewer_images_than_features_stay_finite_and_of_unit_length(mode, n, d):
    features = correlated(n, d).float()
    whitened = fit_whitening(features, mode)(torch.cat([features, correlated(9, d, seed=1).float()]))
    assert whitened.dtype == torch.float32
    assert whitened.isfinite().all()
    assert torch.allclose(whitened.norm(dim=1), torch.ones(n + 9), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_feature_that_never_varies_does_not_break_anything(mode):
    features = correlated(40, 5)
    features[:, 2] = 7
    fitted = fit_whitening(features, mode)
    assert fitted.matrix.isfinite().all()
    assert fitted(features).isfinite().all()


@pytest.mark.parametrize("mode", ["shrunk", "zca", "pca", "standard"])
def test_the_unit_in_which_features_are_measured_does_not_matter(mode):
    features, other = correlated(60, 5), correlated(7, 5, seed=1)
    plain = fit_whitening(features, mode)(other)
    assert torch.allclose(plain, fit_whitening(1000 * features, mode)(1000 * other), atol=1e-3)


def test_the_gain_is_bounded_where_duplicated_images_leave_a_direction_empty():
    features = torch.cat([correlated(1, 20).expand(30, 20), correlated(30, 20, seed=1)])
    features[:, 10:] = features[:, :10]  # half of the directions are never used
    fitted = fit_whitening(features, "shrunk")
    scale = covariance(features).diagonal().mean()
    assert float(torch.linalg.eigvalsh(fitted.matrix)[-1]) <= 1e3 / scale**0.5 * (1 + 1e-6)


def test_zca_makes_all_training_images_equally_similar_when_they_are_few_and_shrinking_does_not():
    features = correlated(10, 30)
    off_diagonal = ~torch.eye(10, dtype=torch.bool)

    def spread(mode):
        whitened = fit_whitening(features, mode)(features)
        return float((whitened @ whitened.T)[off_diagonal].std())

    assert spread("zca") < 1e-4
    assert spread("shrunk") > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_whitened_as_its_rows_one_by_one(mode):
    fitted = fit_whitening(correlated(60, 5), mode)
    queries = correlated(6, 5, seed=2).float()
    assert torch.allclose(fitted(queries), torch.cat([fitted(query[None]) for query in queries]), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_feature_at_the_mean_is_similar_to_nothing(mode):
    features = correlated(60, 5)
    fitted = fit_whitening(features, mode)
    assert torch.equal(fitted(fitted.mean[None]), torch.zeros(1, fitted.matrix.shape[1]))


def test_large_offsets_do_not_cost_precision():
    features = correlated(80, 5, shift=0.0)
    plain, far = fit_whitening(features), fit_whitening(features + 1e5)
    assert torch.allclose(plain(features), far(features + 1e5), atol=1e-4)


# Refusal


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_are_refused(n):
    with pytest.raises(CalibrationError, match=f"at least 2 training images to whiten features; {n} came"):
        fit_whitening(torch.rand(n, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_features_are_refused(bad):
    features = correlated(5, 3)
    features[1, 1] = bad
    with pytest.raises(CalibrationError, match="needed finite features"):
        fit_whitening(features)


@pytest.mark.parametrize("mode", ["shrunk", "zca", "pca"])
def test_identical_images_are_refused(mode):
    with pytest.raises(CalibrationError, match="training images that differ"):
        fit_whitening(torch.ones(5, 3), mode)


def test_an_unknown_mode_is_refused():
    with pytest.raises(CalibrationError, match=r"needed whitening shrunk, zca.* 'ZCA' came"):
        fit_whitening(correlated(5, 3), "ZCA")


# Moments of parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[40], [1, 39], [13, 0, 20, 7], [1] * 40])
@pytest.mark.parametrize("squares", [False, True])
def test_moments_of_parts_are_those_of_the_whole(sizes, squares):
    features = correlated(40, 5, shift=1e4)
    found = Moments.over(features.split(sizes), squares)
    expected = covariance(features) * 40
    assert found.n == 40
    assert np.allclose(found.mean.numpy(), features.numpy().mean(axis=0), rtol=1e-12)
    assert np.allclose(found.scatter.numpy(), np.diag(expected) if squares else expected, rtol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_whitening_fitted_on_blocks_is_that_of_all_rows(mode):
    features = correlated(60, 5)
    whole, blocks = fit_whitening(features, mode), fit_whitening(iter(features.split(7)), mode)
    assert torch.allclose(whole(features), blocks(features), atol=1e-5)
    assert torch.equal(whole.bank(features), whole(features))


def test_blocks_without_a_row_are_refused():
    with pytest.raises(CalibrationError, match="at least 2 training images to whiten features; 0 came"):
        fit_whitening(iter([torch.rand(0, 3)]))
