"""KID: the kernel maximum mean discrepancy of two sets of features (Bińkowski et al. 2018)."""

from jaxtyping import Float
from torch import Tensor

from mi_callback.statistics.set_scores.features import check_features, rows_of_block


def kid(reference: Float[Tensor, "n d"], generated: Float[Tensor, "m d"]) -> float:
    r"""Unbiased squared maximum mean discrepancy with a cubic kernel, over all pairs.

    .. math:: \mathrm{KID} = \frac{1}{n (n - 1)} \sum_{i \neq j} k(x_i, x_j)
              + \frac{1}{m (m - 1)} \sum_{i \neq j} k(y_i, y_j) - \frac{2}{n m} \sum_{i, j} k(x_i, y_j),
              \quad k(x, y) = \left( \frac{x \cdot y}{d} + 1 \right)^3

    Args:
        reference: Features x of real images, n ≥ 2; usually the training set.
        generated: Features y of generated images, m ≥ 2; m may differ from n.

    Returns:
        About 0, and as often below as above it, for two samples of one distribution; larger is farther.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    References:
        Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018;
        Gretton et al., "A kernel two-sample test", JMLR 2012, eq. 3.

    Example:
        >>> x, y = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
        >>> round(kid(x, y), 3), round(kid(x, y + 1), 3)
        (-0.001, 9.621)
    """
    # torchmetrics' poly_mmd divides every sum by the size of the first set, so it is right for equal sizes only, and
    # its class averages over random subsets; MONAI's compute_mmd has a linear kernel and wants equal sizes too.
    reference, generated = check_features(2, reference=reference, generated=generated)
    n, m = len(reference), len(generated)
    within_reference = (_kernel_sum(reference, reference) - _kernel_diagonal(reference)) / (n * (n - 1))
    within_generated = (_kernel_sum(generated, generated) - _kernel_diagonal(generated)) / (m * (m - 1))
    return within_reference + within_generated - 2 * _kernel_sum(reference, generated) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Σ (x·y / d + 1)³ over all pairs."""
    return sum(float((part @ y.T / x.shape[1] + 1).pow(3).sum()) for part in x.split(rows_of_block(len(y))))


def _kernel_diagonal(x: Tensor) -> float:
    return float((x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum())
