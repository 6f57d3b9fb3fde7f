"""An affine map, refined by Gauss-Newton steps until two images, or volumes, correlate best.

Only the magnitude of the correlation counts: an image with inverted contrast is aligned as well.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.filters import gradient, standardise
from mi_callback.images.warping import homogeneous_coordinates, warp
from mi_callback.registration.config import GaussNewtonConfig


def refine_best_start(
    fixed: Float[Tensor, "p 1 *spatial"],
    moving: Float[Tensor, "p 1 *spatial"],
    mask: Float[Tensor, "p 1 *spatial"],
    starts: Float[Tensor, "p starts dims dims+1"],
    iterations: int,
    config: GaussNewtonConfig,
) -> tuple[Float[Tensor, "p dims dims+1"], Float[Tensor, " p"]]:
    """Maps refined from the start, or from the identity, that leads farthest in `config.start_iterations` steps.

    Args:
        fixed, moving: Generated images and references.
        mask: 1 where the generated image counts, 0 elsewhere.
        starts: Maps that `search_maps` found.
        iterations: Steps in all.
        config: How steps are taken.

    Returns:
        What `refine_map` does.
    """
    # Most copies are hardly moved.
    starts = torch.cat([starts, identity_maps(starts[:, :1])], dim=1)
    ours, theirs, where = (images.repeat_interleave(starts.shape[1], dim=0) for images in (fixed, moving, mask))
    tried, correlation = refine_map(ours, theirs, where, starts.flatten(0, 1), config.start_iterations, config)
    best = correlation.view(starts.shape[:2]).argmax(dim=1)
    theta = tried.view_as(starts)[torch.arange(len(best), device=best.device), best]
    return refine_map(fixed, moving, mask, theta, iterations - config.start_iterations, config)


def refine_map(
    fixed: Float[Tensor, "p 1 *spatial"],
    moving: Float[Tensor, "p 1 *spatial"],
    mask: Float[Tensor, "p 1 *spatial"],
    theta: Float[Tensor, "p dims dims+1"],
    iterations: int,
    config: GaussNewtonConfig,
) -> tuple[Float[Tensor, "p dims dims+1"], Float[Tensor, " p"]]:
    """Inverse compositional Gauss-Newton steps towards the largest magnitude of the correlation.

    With f̂ and m̂, both images standardised over the overlap Ω, m̂ with the sign of their correlation, and J, the
    derivatives of f̂ by the parameters of x ↦ x + A (x, 1), one step is

        A = (Σ_Ω JᵀJ + λI)⁻¹ Σ_Ω Jᵀ (m̂(θ x) − f̂(x)),    θ ← θ ∘ (x ↦ x + A (x, 1))⁻¹

    J and the matrix, of the first overlap, serve all steps.

    Args:
        fixed, moving: Generated images f and references m.
        mask: 1 where the generated image counts, 0 elsewhere.
        theta: Maps from generated to reference coordinates to begin with, as `affine_grid` takes them.
        iterations: Steps; with 0 the correlation under `theta` is all that is computed.
        config: How steps are taken.

    Returns:
        The best map seen, and the magnitude of the correlation over the overlap under it, in [0, 1]; 0 where less than
        `config.least_overlap` of the mask overlaps.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004 (inverse compositional algorithm).
    """
    jacobian, area = _jacobian(fixed, mask), mask.flatten(1).sum(dim=1)
    fixed, moving = (_centre(image) for image in (fixed, moving))
    images = torch.cat([torch.ones_like(fixed), fixed, moving], dim=1).flatten(2)
    best, best_theta = torch.full_like(area, -1.0), theta
    for iteration in range(iterations + 1):
        inside = _warp_into(images, moving, mask, theta)
        weighted = images * inside
        correlation, weights = _correlate(weighted @ images.transpose(1, 2), config.least_overlap * area)
        better = correlation.abs() > best
        best = torch.where(better, correlation.abs(), best)
        best_theta = torch.where(better[:, None, None], theta, best_theta)
        if iteration == iterations:
            break
        if iteration == 0:  # that of later overlaps would save some steps where structure reaches the border
            hessian = _damp((jacobian * inside) @ jacobian.transpose(1, 2), config.damping)
        residual = weights[:, None] @ weighted
        step = torch.linalg.solve(hessian, jacobian @ residual.transpose(1, 2))
        theta = _compose(theta, step.view_as(theta), config)
    return best_theta, best


def identity_maps(theta: Float[Tensor, "*n dims dims+1"]) -> Float[Tensor, "*n dims dims+1"]:
    """Maps that leave everything where it is, of the shape of others."""
    return torch.eye(*theta.shape[-2:]).to(theta).expand_as(theta)


def _warp_into(images: Tensor, moving: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    """Put references under maps in the last plane of `images`, `(p, 3, pixels)`; 1 where these overlap."""
    warped, inside = warp(moving, theta)
    images[:, 2:] = warped.flatten(2)
    return (inside * mask).flatten(2)


def _jacobian(fixed: Tensor, mask: Tensor) -> Tensor:
    """d image / d parameters of x ↦ x + A (x, y, …, 1), in normalised coordinates: `(p, dims · (dims + 1), pixels)`."""
    side, coordinates = fixed.shape[-1], homogeneous_coordinates(*fixed.shape[2:]).to(fixed)
    slopes = gradient(standardise(fixed, mask), mask)
    return torch.cat([slope.flatten(2) * side / 2 * coordinates for slope in slopes], dim=1)


def _centre(images: Tensor) -> Tensor:
    """Images without their means: small variances do not drown in the squares of these."""
    return images - images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)


def _damp(hessian: Tensor, damping: float) -> Tensor:
    """Matrices `(p, n, n)` with a share of the mean of their diagonal added to it (Levenberg): never singular."""
    identity = damping * torch.eye(hessian.shape[1], device=hessian.device)
    return hessian + identity * hessian.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-6)[:, None, None]


def _correlate(products: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation of two images, and the weights of 1 and of each in their difference when both are standardised.

    Args:
        products: Sums over the overlap of products of 1 and the two with each other, `(p, 3, 3)`.
        least: Pixels that must overlap, `(p,)`; of fewer the correlation is 0.

    Returns:
        `(p,)` and `(p, 3)`: what times 1 and the images is the second, or its negative where they correlate negatively,
        minus the first.
    """
    total = products[:, 0, 0]
    moments = products / total.clamp_min(1)[:, None, None]
    mean = moments[:, 0, 1:]
    covariance = moments[:, 1:, 1:] - mean[:, :, None] * mean[:, None]
    deviation = (covariance.diagonal(dim1=1, dim2=2).clamp_min(0) + 1e-6).sqrt()
    correlation = (covariance[:, 0, 1] / deviation.prod(dim=1)).where(total >= least, 0.0)
    sign = torch.where(correlation < 0, -1.0, 1.0)
    scale = torch.stack([-torch.ones_like(sign), sign], dim=1) / deviation
    return correlation, torch.cat([-(scale * mean).sum(dim=1, keepdim=True), scale], dim=1)


def _compose(theta: Tensor, step: Tensor, config: GaussNewtonConfig) -> Tensor:
    """`theta` after the inverse of x ↦ x + step (x, 1), kept within the affine maps that a copy can have."""
    dims, step = theta.shape[1], step.clamp(-config.largest_step, config.largest_step)
    row = torch.eye(dims + 1, device=theta.device)[dims:].expand(len(theta), 1, -1)
    increment = torch.cat([step + torch.eye(dims, dims + 1, device=theta.device), row], dim=1)
    composed = (torch.cat([theta, row], dim=1) @ torch.linalg.inv(increment))[:, :dims]
    linear, shift = composed.split([dims, 1], dim=2)
    # A map that left this box has diverged; the best one seen is what counts.
    linear = linear.clamp(-config.largest_linear, config.largest_linear)
    return torch.cat([linear, shift.clamp(-config.largest_shift, config.largest_shift)], dim=2)
