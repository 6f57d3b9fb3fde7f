"""The affine map under which two images correlate best: an exhaustive coarse search, then Gauss-Newton on a pyramid.

Only the magnitude of the correlation counts: an image with inverted contrast is aligned as well.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.warping import gradient, pixel_centres, sign_of, standardise, warp

LEVELS = ((24, 10), (48, 8), (96, 4))
"""Side of each pyramid level and Gauss-Newton iterations there."""

ROTATIONS, ZOOMS = (-30.0, -15.0, 0.0, 15.0, 30.0), (0.75, 1.0, 1.33)
"""Rotations in degrees and magnifications that are tried with every shift before the first Gauss-Newton step."""

STEP, REACH = 2, 10
"""Shifts tried, in pixels of the coarsest level: their step, and the farthest."""

STARTS = 2
"""How many of the combinations are refined."""

LEAST_OVERLAP = 0.35
"""Share of the masked area that a start must cover."""


def align_coarsely(generated: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Map from generated to reference, fitted on all levels but the finest, and the correlation under it.

    Args:
        generated, reference: `(p, 1, h, w)`, square.
        mask: 1 where the generated image counts, 0 elsewhere, of the same shape.

    Returns:
        Maps `(p, 2, 3)` as `affine_grid` takes them, and the magnitude of the correlation `(p,)`.
    """
    (side, iterations), *finer = LEVELS[:-1]
    fixed, moving, where = _at(side, generated, reference, mask)
    starts = _search(fixed, moving, where)
    fixed, moving, where = (images.repeat_interleave(STARTS, 0) for images in (fixed, moving, where))
    tried, correlation = _gauss_newton(fixed, moving, where, starts.flatten(0, 1), iterations)
    correlation, best = correlation.view(-1, STARTS).max(dim=1)
    theta = tried.view_as(starts)[torch.arange(len(best), device=best.device), best]
    for side, iterations in finer:
        fixed, moving, where = _at(side, generated, reference, mask)
        theta, correlation = _gauss_newton(fixed, moving, where, theta, iterations)
    return theta, correlation


def align_finely(generated: Tensor, reference: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    """The map after the finest level, from one that the coarser levels found."""
    return _gauss_newton(generated, reference, mask, theta, LEVELS[-1][1])[0]


def _search(fixed: Tensor, moving: Tensor, mask: Tensor) -> Tensor:
    """The best maps out of all combinations of rotation, magnification and shift, `(p, STARTS, 2, 3)`.

    Each rotation and magnification counts with its best shift. Evidence is the overlap times −log(1 − ρ²): the
    likelihood ratio of Gaussian images, in which little overlap says little.
    """
    linear = _linear_maps().to(fixed)
    pairs, maps, side = len(fixed), len(linear), fixed.shape[-1]
    theta = torch.cat([linear, torch.zeros_like(linear[..., :1])], dim=2)
    turned, inside = (
        images.view(pairs, maps, -1) for images in warp(moving.repeat_interleave(maps, 0), theta.repeat(pairs, 1, 1))
    )
    turned = (turned - moving.mean(dim=(1, 2, 3))[:, None, None]) * inside
    ours = (fixed - fixed.mean(dim=(2, 3), keepdim=True)) * mask
    # Sums over the overlap at every shift are products with shifted copies of the fixed image.
    f, f_squared, ones = (_shifted(images) for images in (ours, ours.square(), mask))
    m, m_squared, inside = (images.transpose(1, 2) for images in (turned, turned.square(), inside))
    count = (ones @ inside).clamp_min(1)
    sum_f, sum_m = f @ inside, ones @ m
    covariance = f @ m - sum_f * sum_m / count
    variance_f = f_squared @ inside - sum_f.square() / count
    variance_m = ones @ m_squared - sum_m.square() / count
    correlation = covariance.square() / (variance_f.clamp_min(1e-4) * variance_m.clamp_min(1e-4))
    overlap = count / mask.sum(dim=(1, 2, 3)).clamp_min(1)[:, None, None]
    evidence = -overlap * torch.log1p(-correlation.clamp(0, 0.999))
    evidence, place = evidence.masked_fill(overlap < LEAST_OVERLAP, -1.0).max(dim=1)
    chosen = evidence.topk(STARTS, dim=1).indices
    shifts = torch.arange(-REACH, REACH + 1, STEP, device=fixed.device)
    place = place.gather(1, chosen)
    # The fixed image moved by one shift lies over the moving one moved by its opposite.
    shift = -2 / side * torch.stack([shifts[place % len(shifts)], shifts[place // len(shifts)]], dim=-1).to(fixed)
    return torch.cat([linear[chosen], linear[chosen] @ shift[..., None]], dim=-1)


def _linear_maps() -> Tensor:
    """Every rotation with every magnification, `(k, 2, 2)`."""
    angle, zoom = torch.cartesian_prod(torch.deg2rad(torch.tensor(ROTATIONS)), torch.tensor(ZOOMS)).T
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    return torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)


def _shifted(images: Tensor) -> Tensor:
    """Images `(p, 1, h, w)` moved by every shift, zero outside: `(p, shifts, h · w)`."""
    return F.unfold(F.pad(images, (REACH,) * 4), images.shape[-1], stride=STEP).transpose(1, 2)


def _gauss_newton(fixed: Tensor, moving: Tensor, mask: Tensor, theta: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Inverse compositional steps; returns the best map seen and its correlation over the overlap, unsigned, `(p,)`."""
    side = fixed.shape[-1]
    template = standardise(fixed, mask)
    # d template / d parameters of x ↦ x + A (x, y, 1), in normalised coordinates.
    gradient_x, gradient_y = (slope * side / 2 for slope in gradient(template, mask))
    axis = pixel_centres(side, fixed.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    terms = torch.stack([x, y, torch.ones_like(x)])
    jacobian = torch.cat([gradient_x * terms, gradient_y * terms], dim=1).flatten(2)
    best, best_theta = torch.full((len(fixed),), -1.0, device=fixed.device), theta
    damping = 1e-2 * torch.eye(6, device=fixed.device)
    for iteration in range(iterations + 1):
        warped, inside = warp(moving, theta)
        inside = inside * mask
        ours, theirs = standardise(fixed, inside), standardise(warped, inside)
        correlation = _correlation(ours, theirs, inside, mask)
        better = correlation.abs() > best
        best = torch.where(better, correlation.abs(), best)
        best_theta = torch.where(better[:, None, None], theta, best_theta)
        if iteration == iterations:
            break
        residual = (theirs * sign_of(correlation) - ours) * inside
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
    return torch.cat([composed[..., :2].clamp(-2, 2), composed[..., 2:].clamp(-0.9, 0.9)], dim=2)


def _at(side: int, *images: Tensor) -> tuple[Tensor, ...]:
    return tuple(F.adaptive_avg_pool2d(image, side) for image in images)


def _correlation(fixed: Tensor, warped: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """Of standardised images over the overlap, `(p,)`; 0 where that is less than a quarter of the masked area."""
    total = inside.sum(dim=(1, 2, 3))
    product = (fixed * warped * inside).sum(dim=(1, 2, 3))
    enough = total >= 0.25 * mask.sum(dim=(1, 2, 3))
    return torch.where(enough, product / total.clamp_min(1), torch.zeros_like(total))
