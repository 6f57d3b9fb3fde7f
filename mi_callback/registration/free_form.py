"""A small smooth warp before an affine map: enough for an elastic copy, too little to turn one person into another."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.filters import apply_along_axes, gradient, standardise
from mi_callback.images.resizing import shrink
from mi_callback.images.warping import warp
from mi_callback.registration.config import FreeFormConfig


def fit_displacement(
    fixed: Float[Tensor, "p 1 *spatial"],
    moving: Float[Tensor, "p 1 *spatial"],
    mask: Float[Tensor, "p 1 *spatial"],
    theta: Float[Tensor, "p dims dims+1"],
    config: FreeFormConfig,
) -> Float[Tensor, "p dims *spatial"]:
    """Displacements that make `moving`, under an affine map after them, correlate best with `fixed`.

    u = Σₖ cₖ Bₖ with cubic B-splines Bₖ on a coarse grid. With f̂ and m̂, both images standardised over the overlap Ω, m̂
    with the sign of their correlation, and J, the derivatives of f̂ by the coefficients, one Gauss-Newton step on
    Σ_Ω (f̂ − m̂(θ(x + u)))² + σ · (stiffness · cᵀPc + damping · |c|²), P the differences between neighbours, is

        c ← c + (Σ JᵀJ + σ (stiffness · P + damping · I))⁻¹ (Σ_Ω Jᵀ (f̂ − m̂(θ(x + u))) − σ · stiffness · P c)

    where σ is the mean of the diagonal of Σ JᵀJ. The gradient is that of the fixed image, so that one factorisation
    serves all steps. Deterministic, and of fixed cost.

    Args:
        fixed, moving: Of equal sides.
        mask: 1 where the fixed image counts, 0 elsewhere.
        theta: Affine map from fixed to moving coordinates.
        config: How fine and how stiff the warp is.

    Returns:
        Displacements u in normalised coordinates (x, y, …), to be added to the grid of the fixed image before `theta`:
        see `warp`.

    References:
        Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999;
        Klein et al., "Evaluation of optimization methods for nonrigid medical image registration", IEEE TIP 2007.
    """
    size, dims, side = fixed.shape[-1], fixed.ndim - 2, config.side
    fixed, moving, mask = (shrink(images, side) for images in (fixed, moving, mask))
    splines = _splines(side, config.controls).to(fixed)
    penalty = config.stiffness * _penalty(config.controls, dims).to(fixed)
    slopes = [slope[:, 0] * side / 2 for slope in gradient(standardise(fixed, mask), mask)]
    scale, factor = _normal_equations(slopes, splines, penalty, config.damping)
    controls = fixed.new_zeros(len(fixed), dims, *(config.controls,) * dims)
    for _ in range(config.iterations):
        residual = _residual(fixed, *warp(moving, theta, _field(controls, splines)), mask)
        pull = apply_along_axes(torch.stack([slope * residual for slope in slopes], dim=1), [splines.T] * dims)
        pull = pull.flatten(2) - scale[:, None, None] * controls.flatten(2) @ penalty
        controls = controls + torch.cholesky_solve(pull.flatten(1)[..., None], factor)[..., 0].view_as(controls)
    return _field(controls, _splines(size, config.controls).to(fixed))


def _residual(fixed: Tensor, warped: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """Difference of the standardised images where both are, `(p, *spatial)`; the second inverted if its contrast is."""
    ours, theirs = (standardise(images, inside * mask) for images in (fixed, warped))
    correlation = (ours * theirs * inside * mask).flatten(1).sum(dim=1)
    sign = torch.where(correlation < 0, -1.0, 1.0).view(-1, *(1 for _ in fixed.shape[1:]))
    return ((ours - theirs * sign) * inside)[:, 0]


def _field(controls: Tensor, splines: Tensor) -> Tensor:
    """Displacements of control points `(p, dims, *controls)` → those of pixels `(p, dims, *spatial)`."""
    return apply_along_axes(controls, [splines] * (controls.ndim - 2))


def _normal_equations(slopes: list[Tensor], splines: Tensor, penalty: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Scale of the data term `(p,)` and Cholesky factor of the penalised Gauss-Newton matrix, `(p, n, n)`."""
    products = [[_products(one * other, splines) for other in slopes[: i + 1]] for i, one in enumerate(slopes)]
    scale = sum(row[-1].diagonal(dim1=1, dim2=2).mean(dim=1) for row in products)
    scale = torch.as_tensor(scale).clamp_min(1e-6) / len(slopes)
    stiff = scale[:, None, None] * (penalty + damping * torch.eye(len(penalty)).to(penalty))
    rows = [
        torch.cat([products[max(i, j)][min(i, j)] + (stiff if i == j else 0) for j in range(len(slopes))], dim=2)
        for i in range(len(slopes))
    ]
    return scale, torch.linalg.cholesky(torch.cat(rows, dim=1))


def _products(weight: Tensor, splines: Tensor) -> Tensor:
    """Weighted sum over pixels of every spline times every other, `(p, *spatial)` → `(p, n, n)`; axis by axis."""
    dims, count = weight.ndim - 1, splines.shape[1]
    pairs = (splines[:, :, None] * splines[:, None]).flatten(1)  # one axis: spline a times spline b at each pixel
    sums = apply_along_axes(weight, [pairs.T] * dims).view(-1, *(count, count) * dims)
    ours, theirs = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
    return sums.permute(0, *ours, *theirs).reshape(len(weight), count**dims, count**dims)


@lru_cache
def _splines(side: int, count: int) -> Tensor:
    """Cubic B-spline of each of `count` control points at every pixel along one axis, `(side, count)`."""
    place = (torch.arange(side) + 0.5) * (count - 3) / side + 1
    distance = (place[:, None] - torch.arange(count)).abs()
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)


@lru_cache
def _penalty(count: int, dims: int) -> Tensor:
    """Quadratic form of the differences between neighbouring control points, `(count^dims, count^dims)`."""
    difference = torch.eye(count).diff(dim=0)
    form, identity = difference.T @ difference, torch.eye(count)
    total = torch.zeros(count**dims, count**dims)
    for axis in range(dims):
        product = torch.ones(1, 1)
        for other in range(dims):
            product = torch.kron(product, form if other == axis else identity)
        total += product
    return total
