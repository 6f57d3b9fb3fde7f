"""Features → features in which every direction counts the same, fitted on training features only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.retrieval.growing import blocks_of, gather


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

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the CPU, as `of` takes it."""
        values = {"mean": self.mean, "matrix": self.matrix, "shrinkage": torch.tensor(self.shrinkage).double()}
        return {name: value.cpu().contiguous() for name, value in values.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device | str) -> "Whitening":
        """From `tensors`."""
        return cls(tensors["mean"].to(device), tensors["matrix"].to(device), float(tensors["shrinkage"]))

    def __call__(self, features: Tensor) -> Tensor:
        """`(n, d)` → float32 `(n, d)` of unit length; a feature at the mean becomes zero, similar to nothing."""
        return gather(
            (self._whiten(features[rows]) for rows in blocks_of(len(features), 8 * len(self.mean))), len(features)
        )

    def bank(self, features: Tensor) -> Tensor:
        """The same of training features `(n, d)`, on the device of the whitening."""
        blocks = (features[rows].to(self.mean.device) for rows in blocks_of(len(features), 8 * len(self.mean)))
        return gather((self._whiten(block) for block in blocks), len(features))

    def _whiten(self, features: Tensor) -> Tensor:
        centred = features.to(torch.float64) - self.mean.to(features.device)
        whitened = centred @ self.matrix.to(features.device)
        return torch.nn.functional.normalize(whitened, dim=1, eps=1e-12).to(torch.float32)


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of rows; those of several parts are put together without the rows.

    Attributes:
        n: Number of rows.
        mean: Shape `(d,)`, float64.
        scatter: Sum of the products of all deviations from the mean, `(d, d)`, or of their squares alone, `(d,)`.

    References:
        Chan, Golub and LeVeque, "Algorithms for computing the sample variance", Am. Stat. 1983.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor, squares: bool = False) -> "Moments":
        """Those of rows `(n, d)`, n ≥ 1; with `squares` no products.

        Raises:
            CalibrationError: For rows that are not finite.
        """
        rows = rows.to(torch.float64)
        if not rows.isfinite().all():
            raise CalibrationError("needed finite features; the encoder returned NaN or infinity.")
        mean = rows.mean(dim=0)
        centred = rows - mean
        return cls(len(rows), mean, centred.square().sum(dim=0) if squares else centred.T @ centred)

    def beside(self, other: "Moments") -> "Moments":
        """Those of both together."""
        n, apart = self.n + other.n, other.mean - self.mean
        between = apart.square() if self.scatter.ndim == 1 else torch.outer(apart, apart)
        scatter = self.scatter + other.scatter + between * (self.n * other.n / n)
        return Moments(n, self.mean + apart * (other.n / n), scatter)

    @classmethod
    def over(cls, blocks: Iterable[Tensor], squares: bool = False) -> "Moments":
        """Those of all blocks `(n, d)`, of which empty ones do not count.

        Raises:
            CalibrationError: For no rows, or some that are not finite.
        """
        whole: Moments | None = None
        for part in (cls.of(block, squares) for block in blocks if len(block)):
            whole = part if whole is None else whole.beside(part)
        if whole is None:
            raise CalibrationError("needed at least 2 training images to whiten features; 0 came.")
        return whole


def fit_whitening(
    features: Tensor | Iterable[Tensor],
    mode: WhiteningKind | str = WhiteningKind.SHRUNK,
    epsilon: float = 1e-6,
    device: torch.device | str | None = None,
) -> Whitening:
    """Fit on training features `(n, d)`, or on blocks of them, in one pass.

    Args:
        features: Pooled features of one layer, n ≥ 2.
        mode: `shrunk`: ZCA of the covariance shrunk by `oas_shrinkage`, defined for any n ≥ 2;
            `zca`: ZCA with `epsilon` added to the eigenvalues (the paper's; with n ≤ d + 1 every pair of training
            images becomes equally similar); `pca`: rotation onto the components that the data span, each to unit
            variance; `standard`: every feature to unit variance; `none`: centred only.
        device: Where it is fitted; where the features are, when None.

    Raises:
        CalibrationError: For fewer than two rows or features that are not finite.

    References:
        Kessy, Lewin and Strimmer, "Optimal whitening and decorrelation", Am. Stat. 2018.
    """
    if isinstance(features, Tensor):
        whole = features
        features = (whole[rows] for rows in blocks_of(len(whole), 8 * whole.shape[1]))
    placed = (block if device is None else block.to(device) for block in features)
    moments = Moments.over(placed, squares=mode in ("none", "standard"))
    if moments.n < 2:
        raise CalibrationError(f"needed at least 2 training images to whiten features; {moments.n} came.")
    return _whitening(moments, mode, epsilon)


def _whitening(moments: Moments, mode: WhiteningKind | str, epsilon: float) -> Whitening:
    """That of features with these moments."""
    n, mean = moments.n, moments.mean
    identity = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    if mode == "none":
        return Whitening(mean, identity, 0.0)
    if mode == "standard":
        deviation = (moments.scatter / (n - 1)).sqrt()
        return Whitening(mean, torch.diag(1 / deviation.clamp_min(epsilon)), 0.0)
    covariance = moments.scatter / n
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
