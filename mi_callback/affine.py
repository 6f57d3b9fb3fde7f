"""The affine map under which two images correlate best: Gauss-Newton on a pyramid, from several starts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.warping import pixel_centres, standardise, warp

LEVELS = ((24, 12), (48, 8), (96, 4))
"""Side of each pyramid level and Gauss-Newton iterations there."""

STARTS = ((0.0, 1.0), (20.0, 1.0), (-20.0, 1.0), (0.0, 0.8), (0.0, 1.25))
"""Rotation in degrees and magnification from which the coarsest level is tried."""


def align_coarsely(generated: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Map `(p, 2, 3)` from generated to reference, fitted on all levels but the finest, and its correlation `(p,)`."""
    (side, iterations), *finer = LEVELS[:-1]
    theta, correlation = _best_start(_shrink(generated, side), _shrink(reference, side), iterations)
    for side, iterations in finer:
        theta, correlation = _gauss_newton(_shrink(generated, side), _shrink(reference, side), theta, iterations)
    return theta, correlation


def align_finely(generated: Tensor, reference: Tensor, theta: Tensor) -> Tensor:
    """The map after the finest level, from one that the coarser levels found."""
    return _gauss_newton(generated, reference, theta, LEVELS[-1][1])[0]


def _best_start(fixed: Tensor, moving: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    p, starts = len(fixed), len(STARTS)
    angle, zoom = torch.tensor(STARTS, device=fixed.device).T
    cos, sin = torch.cos(torch.deg2rad(angle)) / zoom, torch.sin(torch.deg2rad(angle)) / zoom
    zero = torch.zeros_like(cos)
    first = torch.stack([torch.stack([cos, sin, zero], 1), torch.stack([-sin, cos, zero], 1)], 1)
    theta, correlation = _gauss_newton(
        fixed.repeat_interleave(starts, 0), moving.repeat_interleave(starts, 0), first.repeat(p, 1, 1), iterations
    )
    best, which = correlation.view(p, starts).max(dim=1)
    return theta.view(p, starts, 2, 3)[torch.arange(p, device=fixed.device), which], best


def _gauss_newton(fixed: Tensor, moving: Tensor, theta: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Inverse compositional steps; returns the best map seen and its correlation over the overlap `(p,)`."""
    side = fixed.shape[-1]
    template = standardise(fixed, torch.ones_like(fixed))
    # d template / d parameters of x ↦ x + A (x, y, 1), in normalised coordinates.
    gradient_x = torch.gradient(template, dim=-1)[0] * side / 2
    gradient_y = torch.gradient(template, dim=-2)[0] * side / 2
    axis = pixel_centres(side, fixed.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    terms = torch.stack([x, y, torch.ones_like(x)])
    jacobian = torch.cat([gradient_x * terms, gradient_y * terms], dim=1).flatten(2)
    best, best_theta = torch.full((len(fixed),), -1.0, device=fixed.device), theta
    damping = 1e-2 * torch.eye(6, device=fixed.device)
    for iteration in range(iterations + 1):
        warped, inside = warp(moving, theta)
        ours, theirs = standardise(fixed, inside), standardise(warped, inside)
        correlation = _correlation(ours, theirs, inside)
        better = correlation > best
        best = torch.where(better, correlation, best)
        best_theta = torch.where(better[:, None, None], theta, best_theta)
        if iteration == iterations:
            break
        residual = (theirs - ours) * inside
        weighted = jacobian * inside.flatten(2)
        hessian = weighted @ jacobian.transpose(1, 2)
        hessian = hessian + damping * hessian.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-6)[:, None, None]
        step = torch.linalg.solve(hessian, weighted @ residual.flatten(2).transpose(1, 2)).view(-1, 2, 3)
        theta = _compose(theta, step.clamp(-0.3, 0.3))
    return best_theta, best


def _compose(theta: Tensor, step: Tensor) -> Tensor:
    """`theta` after the inverse of x ↦ x + step (x, 1), kept within the affine maps that a copy can have."""
    row = theta.new_tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
    increment = torch.cat([step + torch.eye(2, 3, device=theta.device), row], dim=1)
    composed = (torch.cat([theta, row], dim=1) @ torch.linalg.inv(increment))[:, :2]
    # A map that left this box has diverged; the best one seen is what counts.
    return torch.cat([composed[..., :2].clamp(-2, 2), composed[..., 2:].clamp(-0.8, 0.8)], dim=2)


def _shrink(images: Tensor, side: int) -> Tensor:
    return images if images.shape[-1] == side else F.adaptive_avg_pool2d(images, side)


def _correlation(fixed: Tensor, warped: Tensor, inside: Tensor) -> Tensor:
    """Of standardised images over the overlap, `(p,)`; −1 where that is less than a quarter of the image."""
    total = inside.sum(dim=(1, 2, 3))
    product = (fixed * warped * inside).sum(dim=(1, 2, 3))
    enough = total >= 0.25 * inside[0].numel()
    return torch.where(enough, product / total.clamp_min(1), torch.full_like(total, -1.0))
