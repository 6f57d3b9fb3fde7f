"""Many images, many looks: which flags stand together, and when their number is more than chance."""

import math

import torch
from torch import Tensor

from mi_callback.calibration import ROUNDING


def benjamini_hochberg(p_values: Tensor, fdr: float) -> Tensor:
    """Which p-values to reject so that at most a share `fdr` of the rejections is false in expectation, bool `(n,)`.

    References:
        Benjamini and Hochberg, JRSS-B 1995.
    """
    ordered, order = p_values.sort()
    n = len(p_values)
    levels = fdr * torch.arange(1, n + 1, dtype=torch.float64, device=p_values.device) / n
    below = (ordered <= levels + ROUNDING).nonzero()
    flagged = torch.zeros(n, dtype=torch.bool, device=p_values.device)
    if len(below):
        flagged[order[: int(below[-1]) + 1]] = True
    return flagged


def excess_p_value(flagged: int, n: int, alpha: float, n_subjects: int, several_each: bool = False) -> float:
    """Probability of at least this many flags among n novel images, all compared with the *same* null.

    The flags are not independent: a null that came out low flags all images more easily. Given the null, an image is
    flagged with a probability that is Beta(k, G + 1 − k) with k = ⌊α (G + 1)⌋, so the count is beta-binomial. Where
    subjects have several images (`several_each`), p-values fall between the multiples of 1 / (G + 1) and k is rounded
    up, which keeps the answer on the safe side. Assumes that the n images are independent: near-duplicates among them
    (a collapsed generator) make extreme counts likelier than this says.

    References:
        Bates et al., Ann. Statist. 2023, section 2 (calibration-conditional distribution of conformal p-values).
    """
    from scipy.stats import betabinom

    level = alpha * (n_subjects + 1)
    k = math.ceil(level - ROUNDING) if several_each else math.floor(level + ROUNDING)
    if k < 1:
        return 1.0
    return float(betabinom.sf(flagged - 1, n, k, n_subjects + 1 - k)) if k < n_subjects + 1 else 1.0
