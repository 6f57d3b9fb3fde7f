"""Many images at once: which p-values to reject so that few of the rejections are false."""

from enum import StrEnum

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError, choice
from mi_callback.statistics.conformal import at_most


class Procedure(StrEnum):
    """How flags are chosen at a false discovery rate. Members are strings.

    Attributes:
        BH: Benjamini and Hochberg's: for independent samples.
        BY: Benjamini and Yekutieli's: for samples that depend on each other in any way.
    """

    BH = "bh"
    BY = "by"


def reject(p_values: Tensor, fdr: float, procedure: Procedure | str = Procedure.BH) -> Tensor:
    """Which p-values to reject so that at most a share `fdr` of the rejections is false in expectation, bool `(n,)`.

    `bh` (Benjamini-Hochberg) holds for independent images and for conformal p-values that share a null (Bates et al.
    2023); `by` (Benjamini-Yekutieli) holds whatever the dependence, and pays for it with a factor Σ 1/i.

    References:
        Benjamini and Hochberg, JRSS-B 1995; Benjamini and Yekutieli, Ann. Statist. 2001.

    Example:
        >>> reject(torch.tensor([0.01, 0.02, 0.9]), fdr=0.05).tolist()
        [True, True, False]
    """
    if choice("procedure", procedure, Procedure, CalibrationError) is Procedure.BY:
        return benjamini_yekutieli(p_values, fdr)
    return benjamini_hochberg(p_values, fdr)


def benjamini_hochberg(p_values: Tensor, fdr: float) -> Tensor:
    ranks = _ranks(p_values)
    return _step_up(p_values, fdr * ranks / len(p_values))


def benjamini_yekutieli(p_values: Tensor, fdr: float) -> Tensor:
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
