"""Many images at once: which p-values to reject so that few of the rejections are false."""

from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_callback.errors import CalibrationError, choice
from mi_callback.statistics.conformal import at_most


class Procedure(StrEnum):
    """How flags are chosen at a false discovery rate. Members are strings, `"bh"` for example.

    Attributes:
        BH: Benjamini and Hochberg's: for independent samples.
        BY: Benjamini and Yekutieli's: for samples that depend on each other in any way.
    """

    BH = "bh"
    BY = "by"


def reject(p_values: Float[Tensor, " n"], fdr: float, procedure: Procedure | str = Procedure.BH) -> Bool[Tensor, " n"]:
    """Reject p-values by `benjamini_hochberg` or `benjamini_yekutieli`, whichever `procedure` names.

    Raises:
        CalibrationError: For another procedure.

    Example:
        >>> reject(torch.tensor([0.01, 0.02, 0.9]), fdr=0.1, procedure="by").tolist()
        [True, True, False]
    """
    if choice("procedure", procedure, Procedure, CalibrationError) is Procedure.BY:
        return benjamini_yekutieli(p_values, fdr)
    return benjamini_hochberg(p_values, fdr)


def benjamini_hochberg(p_values: Float[Tensor, " n"], fdr: float) -> Bool[Tensor, " n"]:
    r"""Reject p-values so that at most a share `fdr` of the rejections is false in expectation.

    In ascending order :math:`p_{(1)} \leq \ldots \leq p_{(n)}` all up to the last k are rejected for which

    .. math:: p_{(k)} \leq \frac{k}{n} \, q

    with the false discovery rate q. This holds for independent images, and for conformal p-values that share a null.

    Args:
        p_values: One per image; small means memorized.
        fdr: q, in (0, 1).

    Returns:
        Whether each is rejected.

    References:
        Benjamini and Hochberg, "Controlling the false discovery rate", JRSS-B 1995;
        Bates et al., "Testing for outliers with conformal p-values", Ann. Statist. 2023 (a shared null).

    Example:
        >>> benjamini_hochberg(torch.tensor([0.01, 0.03, 0.02, 0.9]), fdr=0.05).tolist()
        [True, True, True, False]
    """
    return _step_up(p_values, fdr * _ranks(p_values) / len(p_values))


def benjamini_yekutieli(p_values: Float[Tensor, " n"], fdr: float) -> Bool[Tensor, " n"]:
    r"""As `benjamini_hochberg`, whatever the dependence among images; the price is a factor of about log n.

    .. math:: p_{(k)} \leq \frac{k}{n} \, \frac{q}{\sum_{i=1}^{n} 1 / i}

    Args:
        p_values: One per image; small means memorized.
        fdr: q, in (0, 1).

    Returns:
        Whether each is rejected.

    References:
        Benjamini and Yekutieli, "The control of the false discovery rate in multiple testing under dependency",
        Ann. Statist. 2001.

    Example:
        >>> benjamini_yekutieli(torch.tensor([0.01, 0.03, 0.02, 0.9]), fdr=0.05).tolist()
        [False, False, False, False]
    """
    ranks = _ranks(p_values)
    return _step_up(p_values, fdr * ranks / len(p_values) / ranks.reciprocal().sum())


def _ranks(p_values: Tensor) -> Tensor:
    return torch.arange(1, len(p_values) + 1, dtype=torch.float64, device=p_values.device)


def _step_up(p_values: Tensor, levels: Tensor) -> Tensor:
    """All p-values up to the last one, in ascending order, that is at most its level."""
    ordered, order = p_values.to(torch.float64).sort()
    below = at_most(ordered, levels).nonzero()
    rejected = torch.zeros(len(p_values), dtype=torch.bool, device=p_values.device)
    if len(below):
        rejected[order[: int(below[-1]) + 1]] = True
    return rejected
