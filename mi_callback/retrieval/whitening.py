"""Features → features in which every direction counts the same, fitted on training features only."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError


class WhiteningKind(StrEnum):
    """How features are whitened; see `fit_whitening`. Members are strings: `"shrunk"` is one too."""

    SHRUNK = "shrunk"
    ZCA = "zca"
    PCA = "pca"
    STANDARD = "standard"
    NONE = "none"


@dataclass(frozen=True)
class Whitening:
    """`(f − mean) @ matrix`, then unit length: inner products of the result are cosines.

    Attributes:
        mean: Shape `(d,)`, float64.
        matrix: Shape `(d, d)` (`pca`: `(d, rank)`), float64.
        shrinkage: Share of the identity mixed into the covariance, in [0, 1]; 0 where nothing was shrunk.
    """

    mean: Tensor
    matrix: Tensor
    shrinkage: float

    def __call__(self, features: Tensor) -> Tensor:
        """`(n, d)` → float32 `(n, d)` of unit length; a feature at the mean becomes zero, similar to nothing."""
        centred = features.to(torch.float64) - self.mean.to(features.device)
        whitened = centred @ self.matrix.to(features.device)
        return torch.nn.functional.normalize(whitened, dim=1, eps=1e-12).to(torch.float32)


def fit_whitening(
    features: Tensor, mode: WhiteningKind | str = WhiteningKind.SHRUNK, epsilon: float = 1e-6
) -> Whitening:
    """Fit on training features `(n, d)`.

    Args:
        features: Pooled features of one layer, n ≥ 2.
        mode: `shrunk`: ZCA of the covariance shrunk by `oas_shrinkage`, defined for any n ≥ 2;
            `zca`: ZCA with `epsilon` added to the eigenvalues (the paper's; with n ≤ d + 1 every pair of training
            images becomes equally similar); `pca`: rotation onto the components that the data span, each to unit
            variance; `standard`: every feature to unit variance; `none`: centred only.

    Raises:
        CalibrationError: For fewer than two rows or features that are not finite.

    References:
        Kessy, Lewin and Strimmer, "Optimal whitening and decorrelation", Am. Stat. 2018.
    """
    features = features.to(torch.float64)
    n, d = features.shape
    if n < 2:
        raise CalibrationError(f"needed at least 2 training images to whiten features; {n} came.")
    if not features.isfinite().all():
        raise CalibrationError("needed finite features; the encoder returned NaN or infinity.")
    mean = features.mean(dim=0)
    centred = features - mean
    identity = torch.eye(d, dtype=torch.float64, device=features.device)
    if mode == "none":
        return Whitening(mean, identity, 0.0)
    if mode == "standard":
        return Whitening(mean, torch.diag(1 / centred.std(dim=0).clamp_min(epsilon)), 0.0)
    covariance = centred.T @ centred / n
    shrinkage = oas_shrinkage(covariance, n) if mode == "shrunk" else 0.0
    scale = covariance.diagonal().mean()
    if scale <= 0:
        raise CalibrationError("needed training images that differ; all have the same features.")
    values, vectors = torch.linalg.eigh((1 - shrinkage) * covariance + shrinkage * scale * identity)
    match mode:
        case "shrunk":
            # The floor bounds the gain along directions in which the data do not vary at all.
            gain = values.clamp_min(scale * 1e-6).rsqrt()
            return Whitening(mean, vectors * gain @ vectors.T, shrinkage)
        case "zca":
            return Whitening(mean, vectors * (values.clamp_min(0) + epsilon).rsqrt() @ vectors.T, 0.0)
        case "pca":
            spanned = values > values[-1] * 1e-6
            return Whitening(mean, vectors[:, spanned] * values[spanned].rsqrt(), 0.0)
        case _:
            raise CalibrationError(f"needed whitening shrunk, zca, pca, standard or none; {mode!r} came.")


def oas_shrinkage(covariance: Tensor, n: int) -> float:
    """Share of the scaled identity that minimises the expected squared error of the covariance of Gaussian data.

    Args:
        covariance: Maximum-likelihood covariance `(d, d)` (divided by n).
        n: Number of images it was estimated from.

    References:
        Chen, Wiesel, Eldar and Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE TSP 2010, eq. 23,
        in the form of scikit-learn's `oas` (the term in 1/d dropped, as there).
    """
    d = len(covariance)
    mean_square, squared_mean = covariance.square().mean(), covariance.diagonal().mean().square()
    denominator = (n + 1) * (mean_square - squared_mean / d)
    return 1.0 if denominator <= 0 else min(1.0, float((mean_square + squared_mean) / denominator))
