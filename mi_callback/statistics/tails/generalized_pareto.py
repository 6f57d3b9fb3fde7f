"""The generalized Pareto distribution of excesses over a high threshold: fitted, and the fit checked."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.statistics.conformal import at_most, round_down

SIMULATED = 199
"""Simulated tails of the fit check."""


class GeneralizedPareto(NamedTuple):
    """Shape ξ and scale σ of each of b fits, `(b,)`; ξ = 0 is the exponential distribution."""

    shape: Float[Tensor, " b"]
    scale: Float[Tensor, " b"]


def log_survival(
    excess: Float[Tensor, "*n"], shape: Float[Tensor, "*n"] | float, scale: Float[Tensor, "*n"] | float
) -> Float[Tensor, "*n"]:
    r"""Logarithm of the probability of a larger excess.

    .. math:: \log P(X > x) = - \frac{1}{\xi} \log\left( 1 + \frac{\xi x}{\sigma} \right)

    and −x / σ where ξ is 0.

    Args:
        excess: x ≥ 0.
        shape: ξ.
        scale: σ > 0.

    Returns:
        float64, at most 0, falling with the excess.

    References:
        Pickands, "Statistical inference using extreme order statistics", Ann. Statist. 1975.

    Example:
        >>> log_survival(torch.tensor([0.0, 3.0]), shape=1.0, scale=1.0).exp().tolist()
        [1.0, 0.25]
    """
    shape = torch.as_tensor(shape, dtype=torch.float64)
    safe = torch.where(shape == 0, 1.0, shape)
    return torch.where(shape == 0, -excess / scale, -(safe * excess / scale).log1p() / safe)


def zhang_stephens(
    excess: Float[Tensor, "b k"], weights: Float[Tensor, " k"] | None = None, n_effective: float | None = None
) -> GeneralizedPareto:
    r"""Fit each row of excesses: the quasi-Bayesian estimate, which exists for every sample.

    With θ = −ξ / σ the likelihood is maximal over ξ at

    .. math:: \xi(\theta) = \frac{1}{k} \sum_i \log(1 - \theta x_i)

    and θ is averaged over a grid of prior quantiles, weighted by that profile likelihood. θ stays below 1 / max x,
    where the likelihood has no bound.

    Args:
        excess: Excesses of each sample, ascending and positive.
        weights: Of the excesses in every mean; equal when None.
        n_effective: Number of independent excesses as which they count; k when None.

    Returns:
        ξ and σ of each row; ξ may be negative.

    References:
        Zhang and Stephens, "A new and efficient estimation method for the generalized Pareto distribution",
        Technometrics 2009.

    Example:
        >>> excess = -torch.linspace(0.05, 0.95, 50, dtype=torch.float64).flip(0).log()  # exponential
        >>> shape, scale = zhang_stephens(excess[None])
        >>> round(float(shape), 1), round(float(scale), 1)
        (-0.2, 1.1)
    """
    k = excess.shape[1]
    weights = torch.full((k,), 1 / k, dtype=torch.float64) if weights is None else weights / weights.sum()
    n_effective = n_effective or k
    theta = _grid(excess, weights, n_effective)
    xi = (-theta[:, :, None] * excess[:, None, :]).log1p() @ weights
    profile = (n_effective * ((-theta / xi).log() - xi - 1)).softmax(-1)
    mean = (profile * theta).sum(-1, keepdim=True)
    # θ = 0 is exponential, and 0 / 0 here.
    mean = torch.where((mean * excess[:, -1:]).abs() < 1e-9, -1e-9 / excess[:, -1:], mean)
    shape = (-mean * excess).log1p() @ weights
    return GeneralizedPareto(shape, -shape / mean[:, 0])


def _grid(excess: Tensor, weights: Tensor, n_effective: float) -> Tensor:
    """Quantiles of the prior of θ, `(b, m)`."""
    m = 20 + math.isqrt(round_down(n_effective))
    quarter = int(at_most(weights.cumsum(0) + weights / 2, 0.25).sum())
    largest, quartile = excess[:, -1:], excess[:, quarter, None]
    steps = torch.arange(1, m + 1, dtype=torch.float64)
    return 1 / largest + (1 - (m / (steps - 0.5)).sqrt()) / (3 * quartile)


def upper_tail_anderson_darling(excess: Float[Tensor, "b k"], fit: GeneralizedPareto) -> Float[Tensor, " b"]:
    r"""Distance of each row of excesses from a fit; it weighs the upper tail, where leaked copies lie.

    .. math:: AU^2 = k \int \frac{(F_k - F)^2}{1 - F} \, dF

    with the empirical distribution :math:`F_k` and the fitted one F.

    Args:
        excess: Excesses of each sample, ascending.
        fit: Of each.

    Returns:
        Distances ≥ 0; larger is a worse fit.

    References:
        Sinclair, Spurr and Ahmad, "Modified Anderson Darling test", Commun. Statist. 1990.

    Example:
        >>> excess = torch.tensor([[0.1, 0.5, 2.0]], dtype=torch.float64)
        >>> one, ten = torch.tensor([1.0]), torch.tensor([10.0])
        >>> [round(float(upper_tail_anderson_darling(excess, GeneralizedPareto(0 * one, s))), 2) for s in (one, ten)]
        [0.13, 1.15]
    """
    k = excess.shape[1]
    survival = log_survival(excess, fit.shape[:, None], fit.scale[:, None])
    odd = 2 * torch.arange(1, k + 1, dtype=torch.float64) - 1
    # The i-th largest excess goes with 2 i − 1: AU² = k / 2 − 2 Σ F_i − Σ (2 i − 1) log(1 − F_(k+1−i)) / k.
    return k / 2 + 2 * survival.expm1().sum(-1) - (odd * survival.flip(-1)).sum(-1) / k


def fit_p_value(excess: Float[Tensor, " k"], generator: torch.Generator) -> float:
    """How often excesses of a generalized Pareto tail fit one worse than these fit theirs: a parametric bootstrap.

    `SIMULATED` tails are drawn from the fit, each is fitted again, and their `upper_tail_anderson_darling` distances
    are compared.

    Args:
        excess: Independent excesses, ascending and positive.
        generator: Of the simulated tails.

    Returns:
        A p-value, at least 1 / (`SIMULATED` + 1); small where the excesses are of no such tail.

    References:
        Stute, González Manteiga and Presedo Quindimil, "Bootstrap based goodness-of-fit-tests", Metrika 1993.

    Example:
        >>> excess = -torch.linspace(0.05, 0.95, 50, dtype=torch.float64).flip(0).log()
        >>> leaked = torch.cat([excess[:-5], torch.tensor([30.0, 31.0, 32.0, 33.0, 34.0])])
        >>> [fit_p_value(x, torch.Generator().manual_seed(0)) > 0.05 for x in (excess, leaked)]
        [True, False]
    """
    fit = zhang_stephens(excess[None])
    uniform = torch.rand(SIMULATED, len(excess), dtype=torch.float64, generator=generator).clamp_min(1e-15)
    simulated = (fit.scale * torch.expm1(-fit.shape * uniform.log()) / fit.shape).sort(-1).values
    both = torch.cat([excess[None], simulated])
    distance = upper_tail_anderson_darling(both, zhang_stephens(both))
    return (1 + int((distance[1:] >= distance[0]).sum())) / (SIMULATED + 1)
