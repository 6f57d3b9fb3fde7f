"""The Vendi score: how many distinct images are there (Friedman and Dieng 2023)?"""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.statistics.set_scores.features import check_features, unit_rows


def vendi(generated: Float[Tensor, "m d"]) -> float:
    r"""Effective number of distinct images.

    .. math:: V = \exp\left( - \sum_i \lambda_i \log \lambda_i \right)

    with the eigenvalues λ of K / m, where K is the matrix of cosines of the features.

    Args:
        generated: Features of generated images. A row of zeros is similar to nothing, as in whitening.

    Returns:
        A number in [1, m]: 1 when all images are the same, m when all are orthogonal. It sees a generator that repeats
        itself, not one that copies its training set.

    Raises:
        DataError: For no row, or values that are not finite.

    References:
        Friedman and Dieng, "The Vendi score", TMLR 2023.

    Example:
        >>> round(vendi(torch.eye(4)[[0, 0, 1, 1, 2, 2]]), 6)
        3.0
    """
    (generated,) = check_features(1, generated=generated)
    unit = unit_rows(generated)
    m, d = unit.shape
    gram = unit @ unit.T if m <= d else unit.T @ unit  # the same eigenvalues but for zeros
    zeros = int((unit == 0).all(dim=1).sum())
    values = torch.cat([torch.linalg.eigvalsh(gram).clamp_min(0), gram.new_ones(zeros)]) / m
    return float(torch.special.entr(values).sum().exp())
