"""How far beyond the null? An extrapolated tail, for ranking more finely than the null's subjects can vouch for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import round_down, round_up
from mi_callback.statistics.null import Null
from mi_callback.statistics.tails.generalized_pareto import fit_p_value, log_survival, zhang_stephens
from mi_callback.types import Similarity

MIN_EXCEEDANCES = 20
"""Subjects above the threshold at least. On normal, exponential, logistic, Gumbel and beta tails, p at a tenth of the
smallest conformal p-value is then (90 % of nulls) between 1/7 and 11 times the truth; with 10 subjects 1/14 is lost,
with 40 nothing below 1/4."""

RELIABLE = 0.05
"""`fit_p_value` above which the tail counts as one that the null supports: one sound null in twenty falls below."""

MIN_EXCESS = 1e-12
"""Smallest excess over the threshold, on Fisher's scale: a fit needs positive ones."""

CLOSEST = 1 - 1e-6
"""Similarity that counts as identical: float32 does not tell identical images apart any closer."""

TINY = 1e-300
"""Smallest p that is returned, so that its logarithm is finite."""


@dataclass(frozen=True)
class Tail:
    """A generalized Pareto tail beyond a high threshold of the null, on the scale of Fisher's z = atanh s.

    An *extrapolation*: p-values from it rank images that are all beyond the null, and flag none. What is honest is the
    conformal p-value, at least 1 / (G + 1).

    Attributes:
        threshold: Similarity from which the tail extrapolates.
        shape: ξ ≥ 0; 0 is the exponential.
        scale: σ > 0, in units of z.
        p_threshold: Conformal p-value at the threshold, where the tail starts.
        n_exceedances: Number of subjects that the fit has seen above the threshold.
        fit_p_value: How often excesses of a generalized Pareto tail fit one worse than these; small means that they
            are of two kinds (training images leaked into the null, say) or otherwise not of this form.
    """

    threshold: float
    shape: float
    scale: float
    p_threshold: float
    n_exceedances: int
    fit_p_value: float

    @property
    def reliable(self) -> bool:
        """Whether the fit check found nothing (see `RELIABLE`). It sees leaked copies, not a slight misfit."""
        return self.fit_p_value > RELIABLE

    def p_values(self, similarity: Similarity) -> Float[Tensor, " n"]:
        r"""p-values beyond the threshold.

        .. math:: p(s) = p_u \left( 1 + \frac{\xi (z - z_u)}{\sigma} \right)^{-1 / \xi}, \quad z = \mathrm{artanh} \, s

        with the threshold u.

        Args:
            similarity: Best match of each image, in [−1, 1]; larger is closer.

        Returns:
            float64, falling strictly up to `CLOSEST`, at least `TINY`. At or below the threshold
            `p_threshold`, which says nothing: `extrapolate` puts the conformal p-value there.

        Raises:
            CalibrationError: If a similarity is not finite or not in [−1, 1].

        Example:
            >>> tail = Tail(0.6, shape=0.0, scale=0.1, p_threshold=0.2, n_exceedances=40, fit_p_value=0.5)
            >>> [f"{p:.1e}" for p in tail.p_values(torch.tensor([0.5, 0.7, 0.9])).tolist()]
            ['2.0e-01', '3.5e-02', '8.3e-05']
        """
        threshold = _fisher(torch.tensor([self.threshold], dtype=torch.float64)).item()
        excess = (_fisher(similarity) - threshold).clamp_min(0)
        return (self.p_threshold * log_survival(excess, self.shape, self.scale).exp()).clamp_min(TINY)

    def extrapolate(self, similarity: Similarity, conformal: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Conformal p-values, and beyond the threshold the extrapolated ones where these are smaller.

        Taking the smaller keeps the ranking in agreement with the flags: it falls with similarity and never contradicts
        a conformal p-value that is already small. For sorting and display, marked as extrapolated.

        Args:
            similarity: Of the kind that the null has; larger is closer.
            conformal: `null.p_values(similarity)`.

        Returns:
            float64, at most `conformal`, never rising with similarity.

        Raises:
            CalibrationError: If the lengths differ, or a similarity is not finite or not in [−1, 1].
        """
        if len(similarity) != len(conformal):
            raise CalibrationError(
                f"needed one conformal p-value per similarity ({len(similarity)}); {len(conformal)} came."
            )
        beyond = similarity.to(torch.float64) > self.threshold
        conformal = conformal.to(torch.float64)
        return torch.where(beyond, torch.minimum(self.p_values(similarity), conformal), conformal)


class _Exceedances(NamedTuple):
    """Images above the threshold, ascending, and how many subjects have one."""

    threshold: Tensor
    excess: Tensor
    weights: Tensor
    subjects: list[str]
    n_subjects: int


def fit_tail(null: Null, seed: int = 0, share: float = 0.2) -> Tail:
    r"""Fit a generalized Pareto tail to the most similar images of the null.

    Beyond a high threshold nearly every distribution has such a tail (Balkema and de Haan, Pickands). Three choices:

    *Every image above the threshold*, weighing 1 / n_g as in the conformal p-values: the tail of a random image of a
    random subject. The weights count as their effective number of subjects (Kish),

    .. math:: k_{\mathrm{eff}} = \frac{(\sum_g w_g)^2}{\sum_g w_g^2}

    with w the sum over the images of one subject, for these are not independent. Fitting one exceeding image of each
    subject instead would be independent, but give a subject with one such slice the weight of one with thirty: where
    subjects differ in spread, p is then below a tenth of the truth in 5 % of nulls (300 subjects of 40 slices, true
    p 2e-3) and half of it in the median. Such a draw serves the fit check, which needs independence.

    *Fisher's z.* A similarity ends at 1, and its tail would be fitted with that end or one before it: p = 0 for
    every copy, by construction. artanh moves the end to infinity; a beta tail becomes an exponential one.

    *ξ ≥ 0.* A negative shape claims that no novel image can be more similar than some value. With 200 subjects the
    unrestricted estimate gives p = 0 at the true 1e-3 quantile in 8 to 18 % of nulls; restricted, p is between 0.2
    and 9 times 1e-3 in 90 % of them, the exponential, logistic, Gumbel, normal and beta tails taken one by one. It errs
    upwards, most for the normal tail, which is lighter than exponential (median 3.9 times; at a tenth of the smallest
    conformal p about 6 times).

    The fit is `generalized_pareto.zhang_stephens`, its check `generalized_pareto.fit_p_value` (of the fit before the
    restriction: a lighter tail than fitted is no fault).

    Args:
        null: Similarity of novel images in [−1, 1], with subjects.
        seed: Of the fit check and of the images drawn for it; the tail itself does not depend on it.
        share: Of subjects with an image above the threshold, in (0, 0.5]. At most 3 √G subjects are used (Vehtari et
            al.): a large null can afford a higher threshold.

    Returns:
        The tail; look at `reliable` before showing anything that comes from it.

    Raises:
        CalibrationError: If the null has too few subjects, is not calibrated (`train_halves`), too many of its
            similarities are tied at the threshold, one is not in [−1, 1], or `share` is out of range.

    References:
        Balkema and de Haan, Ann. Probab. 1974; Pickands, Ann. Statist. 1975 (the tail); Zhang and Stephens,
        Technometrics 2009 (the estimate); Vehtari et al., "Pareto smoothed importance sampling", JMLR 2024 (how
        many); Kish, "Survey sampling", 1965 (the effective number).

    Example:
        >>> tail = fit_tail(Null(torch.linspace(0.2, 0.8, 200, dtype=torch.float64), None, "held_out"))
        >>> round(tail.threshold, 3), round(tail.p_threshold, 3), tail.n_exceedances
        (0.679, 0.209, 40)
    """
    above = _exceedances(null, _n_exceedances(null, share))
    shape, scale = _fit(above)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(above.excess), generator=generator).tolist()
    one_of_each = torch.tensor(sorted({above.subjects[i]: i for i in shuffled}.values()))
    fit_p = fit_p_value(above.excess[one_of_each], generator)
    p_threshold = float(null.p_values(above.threshold[None].to(null.similarity.device)))
    return Tail(float(above.threshold), shape, scale, p_threshold, above.n_subjects, fit_p)


def _n_exceedances(null: Null, share: float) -> int:
    """Subjects to have above the threshold."""
    if not 0 < share <= 0.5:
        raise CalibrationError(f"needed a share of subjects in (0, 0.5] for the tail; {share} came.")
    if not null.kind.calibrated:
        raise CalibrationError(
            "needed a calibrated null for a tail; train_halves came, whose images were trained on. Use null='held_out' "
            "or 'cross_fit'."
        )
    k = round_down(min(share * null.n_subjects, 3 * null.n_subjects**0.5))
    if k < MIN_EXCEEDANCES:
        needed = max(round_up(MIN_EXCEEDANCES / share), math.ceil((MIN_EXCEEDANCES / 3) ** 2))
        raise CalibrationError(
            f"needed {MIN_EXCEEDANCES} subjects above the threshold of a tail, so at least {needed} subjects in the "
            f"null; {null.n_subjects} came. Hold out more subjects, or rank by the Memorization Index."
        )
    return k


def _exceedances(null: Null, k: int) -> _Exceedances:
    """Images above the largest similarity of the subject that comes after the k with the largest ones."""
    similarity = null.similarity.detach().cpu().to(torch.float64)
    ids = list(null.subjects or map(str, range(len(similarity))))
    order = similarity.argsort()
    largest = torch.tensor(sorted({ids[i]: similarity[i].item() for i in order.tolist()}.values()), dtype=torch.float64)
    threshold = largest[-k - 1]
    if (n_above := int((largest > threshold).sum())) < MIN_EXCEEDANCES:
        raise CalibrationError(
            f"needed {MIN_EXCEEDANCES} subjects above the threshold of a tail; {n_above} came, because others are "
            f"tied at a similarity of {float(threshold):.4g}. Are null images copies of each other, or similarities "
            "rounded?"
        )
    rows = order[similarity[order] > threshold]
    excess = (_fisher(similarity[rows]) - _fisher(threshold[None])).clamp_min(MIN_EXCESS)
    return _Exceedances(threshold, excess, null.weights.cpu()[rows], [ids[row] for row in rows.tolist()], n_above)


def _fit(above: _Exceedances) -> tuple[float, float]:
    """ξ and σ, the exponential one where ξ would be negative."""
    fit = zhang_stephens(above.excess[None], above.weights, _effective(above.weights, above.subjects))
    if float(fit.shape) >= 0:
        return float(fit.shape), float(fit.scale)
    return 0.0, float((above.weights * above.excess).sum() / above.weights.sum())


def _fisher(similarity: Tensor) -> Tensor:
    """atanh s, float64; s is held within ± `CLOSEST`."""
    values = similarity.to(torch.float64)
    if not values.isfinite().all():
        raise CalibrationError("needed finite similarities for a tail; NaN or infinity came.")
    if len(values) and (largest := float(values.abs().max())) > 1 + 1e-4:  # rounding may exceed 1, no more
        raise CalibrationError(
            f"needed similarities in [-1, 1] for a tail (cosines or LNCC); one of size {largest:.4g} came."
        )
    return values.clamp(-CLOSEST, CLOSEST).atanh()


def _effective(weights: Tensor, subjects: Sequence[str]) -> float:
    """Effective number of subjects (Kish): (Σ w)² / Σ w² over the weights w of subjects, each the sum of its images."""
    total: dict[str, float] = {}
    for weight, subject in zip(weights.tolist(), subjects, strict=True):
        total[subject] = total.get(subject, 0.0) + weight
    return sum(total.values()) ** 2 / sum(weight**2 for weight in total.values())
