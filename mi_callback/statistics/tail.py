"""How far beyond the null? An extrapolated tail, for ranking more finely than the null's subjects can vouch for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import ROUNDING, round_up
from mi_callback.statistics.null import Null
from mi_callback.types import Similarity

MIN_EXCEEDANCES = 20
"""Subjects above the threshold at least. On normal, exponential, logistic, Gumbel and beta tails, p at a tenth of the
smallest conformal p-value is then (90 % of nulls) between 1/7 and 11 times the truth; with 10 subjects 1/14 is lost,
with 40 nothing below 1/4."""

RELIABLE = 0.05
"""`fit_p_value` above which the tail counts as one that the null supports: one sound null in twenty falls below."""

SIMULATED = 199
"""Simulated tails of the fit check."""

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

    def p_values(self, similarity: Similarity) -> Tensor:
        """p-values beyond the threshold: `p_threshold` times the survival function of the excess.

        Args:
            similarity: Shape `(n,)`; larger is closer.

        Returns:
            float64 `(n,)`, falling strictly up to `CLOSEST`, at least `TINY`. At or below the threshold
            `p_threshold`, which says nothing: `extrapolate` puts the conformal p-value there.

        Raises:
            CalibrationError: If a similarity is not finite or not in [-1, 1].
        """
        excess = (_fisher(similarity) - _fisher(torch.tensor([self.threshold], dtype=torch.float64)).item()).clamp_min(
            0
        )
        return (self.p_threshold * _log_survival(excess, self.shape, self.scale).exp()).clamp_min(TINY)

    def extrapolate(self, similarity: Similarity, conformal: Tensor) -> Tensor:
        """Conformal p-values, and beyond the threshold the extrapolated ones where these are smaller.

        Taking the smaller keeps the ranking in agreement with the flags: it falls with similarity and never contradicts
        a conformal p-value that is already small. For sorting and display, marked as extrapolated.

        Args:
            similarity: Shape `(n,)`, of the kind that the null has.
            conformal: `null.p_values(similarity)`, `(n,)`.

        Returns:
            float64 `(n,)`, at most `conformal`, never rising with similarity.

        Raises:
            CalibrationError: If the lengths differ, or a similarity is not finite or not in [-1, 1].
        """
        if len(similarity) != len(conformal):
            raise CalibrationError(
                f"needed one conformal p-value per similarity ({len(similarity)}); {len(conformal)} came."
            )
        beyond = similarity.to(torch.float64) > self.threshold
        conformal = conformal.to(torch.float64)
        return torch.where(beyond, torch.minimum(self.p_values(similarity), conformal), conformal)


def fit_tail(null: Null, seed: int = 0, share: float = 0.2) -> Tail:
    """Fit a generalized Pareto tail to the most similar images of the null.

    Beyond a high threshold nearly every distribution has such a tail (Balkema and de Haan, Pickands). Three choices:

    *Every image above the threshold*, weighing 1 / n_g as in the conformal p-values: the tail of a random image of a
    random subject. The weights count as their effective number of subjects, for the images of one are not independent.
    Fitting one exceeding image of each subject instead would be independent, but give a subject with one such slice the
    weight of one with thirty: where subjects differ in spread, p is then below a tenth of the truth in 5 % of nulls
    (300 subjects of 40 slices, true p 2e-3) and half of it in the median. Such a draw serves the fit check, which needs
    independence.

    *Fisher's z.* A similarity ends at 1, and its tail would be fitted with that end or one before it: p = 0 for
    every copy, by construction. atanh moves the end to infinity; a beta tail becomes an exponential one.

    *ξ ≥ 0.* A negative shape claims that no novel image can be more similar than some value. With 200 subjects the
    unrestricted estimate gives p = 0 at the true 1e-3 quantile in 8 to 18 % of nulls; restricted, p is between 0.2
    and 9 times 1e-3 in 90 % of them, the exponential, logistic, Gumbel, normal and beta tails taken one by one. It errs
    upwards, most for the normal tail, which is lighter than exponential (median 3.9 times; at a tenth of the smallest
    conformal p about 6 times).

    The estimate is the quasi-Bayesian one of Zhang and Stephens; it exists for every sample. The fit check simulates
    tails from the estimate (before the restriction: a lighter tail than fitted is no fault), fits each again, and
    compares upper-tail Anderson-Darling statistics, which see leaked copies best.

    Args:
        null: Similarity of novel images in [-1, 1], with subjects.
        seed: Of the fit check and of the images drawn for it; the tail itself does not depend on it.
        share: Of subjects with an image above the threshold, in (0, 0.5]. At most 3 √G subjects are used (Vehtari et
            al.): a large null can afford a higher threshold.

    Returns:
        The tail; look at `reliable` before showing anything that comes from it.

    Raises:
        CalibrationError: If the null has too few subjects, is not calibrated (`train_halves`), too many of its
            similarities are tied at the threshold, one is not in [-1, 1], or `share` is out of range.

    References:
        Balkema and de Haan, Ann. Probab. 1974; Pickands, Ann. Statist. 1975 (the tail); Zhang and Stephens,
        Technometrics 2009 (the estimate); Vehtari et al., "Pareto smoothed importance sampling", JMLR 2024 (how
        many); Sinclair, Spurr and Ahmad, Commun. Statist. 1990 (the statistic).
    """
    if not 0 < share <= 0.5:
        raise CalibrationError(f"needed a share of subjects in (0, 0.5] for the tail; {share} came.")
    if not null.kind.calibrated:
        raise CalibrationError(
            "needed a calibrated null for a tail; train_halves came, whose images were trained on. Use null='held_out' "
            "or 'cross_fit'."
        )
    n_subjects = null.n_subjects
    k = int(min(share * n_subjects + ROUNDING, 3 * n_subjects**0.5))
    if k < MIN_EXCEEDANCES:
        needed = max(round_up(MIN_EXCEEDANCES / share), math.ceil((MIN_EXCEEDANCES / 3) ** 2))
        raise CalibrationError(
            f"needed {MIN_EXCEEDANCES} subjects above the threshold of a tail, so at least {needed} subjects in the "
            f"null; {n_subjects} came. Hold out more subjects, or rank by the Memorization Index."
        )
    generator = torch.Generator().manual_seed(seed)
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
    excess = (_fisher(similarity[rows]) - _fisher(threshold[None])).clamp_min(ROUNDING)
    weights, subjects = null.weights.cpu()[rows], [ids[row] for row in rows.tolist()]
    shape, scale = (float(value) for value in _zhang_stephens(excess[None], weights, _effective(weights, subjects)))
    if shape < 0:
        shape, scale = 0.0, float((weights * excess).sum() / weights.sum())
    shuffled = torch.randperm(len(rows), generator=generator).tolist()
    one_of_each = torch.tensor(sorted({subjects[i]: i for i in shuffled}.values()))
    fit_p_value = _fit_p_value(excess[one_of_each], generator)
    p_threshold = float(null.p_values(threshold[None].to(null.similarity.device)))
    return Tail(float(threshold), shape, scale, p_threshold, n_above, fit_p_value)


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


def _log_survival(excess: Tensor, shape: Tensor | float, scale: Tensor | float) -> Tensor:
    """log of (1 + ξ x / σ)^(−1 / ξ); of exp(−x / σ) where ξ is 0."""
    shape = torch.as_tensor(shape, dtype=torch.float64)
    safe = torch.where(shape == 0, 1.0, shape)
    return torch.where(shape == 0, -excess / scale, -(safe * excess / scale).log1p() / safe)


def _effective(weights: Tensor, subjects: Sequence[str]) -> float:
    """Effective number of subjects (Kish): (Σ w)² / Σ w² over the weights w of subjects, each the sum of its images."""
    total: dict[str, float] = {}
    for weight, subject in zip(weights.tolist(), subjects, strict=True):
        total[subject] = total.get(subject, 0.0) + weight
    return sum(total.values()) ** 2 / sum(weight**2 for weight in total.values())


def _zhang_stephens(
    excess: Tensor, weights: Tensor | None = None, n_effective: float | None = None
) -> tuple[Tensor, Tensor]:
    """Shape ξ and scale σ of each row of excesses, `(b, k)` ascending and positive; two tensors `(b,)`.

    With θ = −ξ / σ the likelihood is maximal over ξ at ξ(θ) = mean log(1 − θ x): θ is averaged over a grid of prior
    quantiles, weighted by that profile likelihood. θ stays below 1 / max x, where the likelihood has no bound.
    Means are weighted by `weights` `(k,)`, and the likelihood counts as that of `n_effective` excesses.
    """
    k = excess.shape[1]
    weights = torch.full((k,), 1 / k, dtype=torch.float64) if weights is None else weights / weights.sum()
    n_effective = n_effective or k
    m = 20 + math.isqrt(int(n_effective + ROUNDING))
    quarter = int((weights.cumsum(0) + weights / 2 <= 0.25 + ROUNDING).sum())
    largest, quartile = excess[:, -1:], excess[:, quarter, None]
    steps = torch.arange(1, m + 1, dtype=torch.float64)
    theta = 1 / largest + (1 - (m / (steps - 0.5)).sqrt()) / (3 * quartile)
    xi = (-theta[:, :, None] * excess[:, None, :]).log1p() @ weights
    profile = (n_effective * ((-theta / xi).log() - xi - 1)).softmax(-1)
    mean = (profile * theta).sum(-1, keepdim=True)
    mean = torch.where((mean * largest).abs() < 1e-9, -1e-9 / largest, mean)  # θ = 0 is exponential, and 0 / 0 here
    shape = (-mean * excess).log1p() @ weights
    return shape, -shape / mean[:, 0]


def _upper_tail_distance(excess: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Upper-tail Anderson-Darling statistic k ∫ (F_k − F)² / (1 − F) dF of each row `(b, k)`, `(b,)`."""
    k = excess.shape[1]
    survival = _log_survival(excess, shape[:, None], scale[:, None])
    odd = 2 * torch.arange(1, k + 1, dtype=torch.float64) - 1
    # The i-th largest excess goes with 2 i − 1: AU² = k / 2 − 2 Σ F_i − Σ (2 i − 1) log(1 − F_(k+1−i)) / k.
    return k / 2 + 2 * survival.expm1().sum(-1) - (odd * survival.flip(-1)).sum(-1) / k


def _fit_p_value(excess: Tensor, generator: torch.Generator) -> float:
    """Parametric bootstrap: share of tails simulated from the fit that fit their own refit no better than `excess`."""
    shape, scale = _zhang_stephens(excess[None])
    uniform = torch.rand(SIMULATED, len(excess), dtype=torch.float64, generator=generator).clamp_min(1e-15)
    simulated = (scale * torch.expm1(-shape * uniform.log()) / shape).sort(-1).values
    both = torch.cat([excess[None], simulated])
    distance = _upper_tail_distance(both, *_zhang_stephens(both))
    return (1 + int((distance[1:] >= distance[0]).sum())) / (SIMULATED + 1)
