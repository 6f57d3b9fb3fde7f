"""Is the generated image a warped copy of the match? Affine alignment, then local correlation in image space."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 96
"""Side, in pixels, at which images are compared."""

LEVELS = ((24, 12), (48, 8), (96, 4))
"""Side of each pyramid level and Gauss-Newton iterations there."""

STARTS = ((0.0, 1.0), (20.0, 1.0), (-20.0, 1.0), (0.0, 0.8), (0.0, 1.25))
"""Rotation in degrees and magnification from which the coarsest level is tried."""

KEPT = 3
"""Candidates of one image that go on to the finest level: the first, and those that correlate best one level before."""

WINDOW = 9
"""Side, in pixels, of the neighbourhoods of the LNCC."""

COPIED = 0.9
"""LNCC from which a neighbourhood counts towards the copied fraction."""


@dataclass(frozen=True)
class Alignment:
    """Result for p pairs.

    Attributes:
        lncc: Mean local correlation over the overlap, weighted by the structure in the generated image, shape `(p,)`;
            larger is closer, 1 is a copy. Invariant to local gain and offset.
        copied_fraction: Share of that structure whose LNCC is at least `COPIED`, in [0, 1].
        aligned: The reference in the frame of the generated image, `(p, SIZE, SIZE)` in [0, 1].
        lncc_map: Local correlation, `(p, SIZE, SIZE)`; 0 outside the overlap.
        theta: Affine map from generated to reference coordinates (as `affine_grid` takes it), `(p, 2, 3)`.
    """

    lncc: Tensor
    copied_fraction: Tensor
    aligned: Tensor
    lncc_map: Tensor
    theta: Tensor


def register(generated: Tensor, reference: Tensor, group: Tensor | None = None, chunk: int = 256) -> Alignment:
    """Align each reference to its generated image by an affine map and compare them.

    Normalised correlation is maximised by Gauss-Newton steps in the inverse compositional form, from several starts
    at the coarsest level of a pyramid, so the cost per pair is fixed. Deterministic.

    Args:
        generated: uint8 `(p, SIZE, SIZE)`, in the pose in which the reference was found.
        reference: uint8 `(p, SIZE, SIZE)`.
        group: Which pairs are candidates for the same generated image, `(p,)`: of each group the first and the best of
            the coarser levels, `KEPT` in all, reach the finest one; the others get `lncc` −1. Without groups every
            pair does.
        chunk: Pairs aligned at a time; bounds the memory.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004 (inverse compositional alignment).
        Avants et al., "Symmetric diffeomorphic image registration", MedIA 2008 (LNCC).
    """
    pairs = len(generated)
    coarse = [_align_coarsely(_as_float(generated[rows]), _as_float(reference[rows])) for rows in _chunks(pairs, chunk)]
    theta, correlation = (torch.cat([part[k] for part in coarse]) for k in range(2))
    promising = torch.ones(pairs, dtype=torch.bool) if group is None else _best_of_group(correlation.cpu(), group.cpu())
    chosen = promising.nonzero().flatten().to(generated.device)
    fine = [
        _compare(_as_float(generated[chosen[rows]]), _as_float(reference[chosen[rows]]), theta[chosen[rows]])
        for rows in _chunks(len(chosen), chunk)
    ]
    side = reference.shape[-1]
    result = Alignment(
        lncc=correlation.new_full((pairs,), -1.0),
        copied_fraction=correlation.new_zeros(pairs),
        aligned=correlation.new_zeros(pairs, side, side),
        lncc_map=correlation.new_zeros(pairs, side, side),
        theta=theta,
    )
    for field in Alignment.__annotations__:
        getattr(result, field)[chosen] = torch.cat([getattr(part, field) for part in fine])
    return result


def _chunks(n: int, size: int) -> tuple[Tensor, ...]:
    return torch.arange(n).split(size)


def _as_float(images: Tensor) -> Tensor:
    return images.float()[:, None] / 255


def _best_of_group(correlation: Tensor, group: Tensor) -> Tensor:
    """Whether a pair is the first or among the best of its group, `KEPT` in all, bool `(p,)`."""
    position = torch.arange(len(group))
    first = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, position, "amin")
    # Retrieval's favourite stays: one global correlation at a coarse level may misjudge it.
    by_value = correlation.masked_fill(first[group] == position, 2.0).argsort(descending=True, stable=True)
    order = by_value[group[by_value].argsort(stable=True)]
    _, sizes = group[order].unique_consecutive(return_counts=True)
    rank = torch.cat([torch.arange(int(size)) for size in sizes])
    best = torch.empty(len(group), dtype=torch.bool)
    best[order] = rank < KEPT
    return best


def _align_coarsely(generated: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    (side, iterations), *finer = LEVELS[:-1]
    theta, correlation = _best_start(_shrink(generated, side), _shrink(reference, side), iterations)
    for side, iterations in finer:
        theta, correlation = _gauss_newton(_shrink(generated, side), _shrink(reference, side), theta, iterations)
    return theta, correlation


def _compare(generated: Tensor, reference: Tensor, theta: Tensor) -> Alignment:
    theta, _ = _gauss_newton(generated, reference, theta, LEVELS[-1][1])
    aligned, inside = _warp(reference, theta)
    lncc, copied, lncc_map = local_correlation(generated, aligned, inside)
    return Alignment(lncc, copied, aligned[:, 0], lncc_map[:, 0], theta)


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
    template = _standardise(fixed, torch.ones_like(fixed))
    # d template / d parameters of x ↦ x + A (x, y, 1), in normalised coordinates.
    gradient_x = torch.gradient(template, dim=-1)[0] * side / 2
    gradient_y = torch.gradient(template, dim=-2)[0] * side / 2
    axis = (torch.arange(side, device=fixed.device) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    terms = torch.stack([x, y, torch.ones_like(x)])
    jacobian = torch.cat([gradient_x * terms, gradient_y * terms], dim=1).flatten(2)
    best, best_theta = torch.full((len(fixed),), -1.0, device=fixed.device), theta
    damping = 1e-2 * torch.eye(6, device=fixed.device)
    for iteration in range(iterations + 1):
        warped, inside = _warp(moving, theta)
        correlation = _correlation(fixed, warped, inside)
        better = correlation > best
        best = torch.where(better, correlation, best)
        best_theta = torch.where(better[:, None, None], theta, best_theta)
        if iteration == iterations:
            break
        residual = (_standardise(warped, inside) - _standardise(fixed, inside)) * inside
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


def local_correlation(generated: Tensor, aligned: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LNCC of images `(p, 1, h, w)` in [0, 1] over windows that lie where `inside` is 1.

    Windows count by their standard deviation in the generated image, up to 0.1: flat background, and noise in it,
    says nothing about whose anatomy this is.

    Returns:
        Weighted mean `(p,)`, weighted share of windows with LNCC ≥ `COPIED` `(p,)`, map `(p, 1, h, w)`.
    """
    maps = torch.cat([generated, aligned, generated.square(), aligned.square(), generated * aligned, inside], dim=1)
    mean_g, mean_a, square_g, square_a, product, mean_inside = _box_mean(maps).unsqueeze(2).unbind(dim=1)
    var_g = (square_g - mean_g.square()).clamp_min(0)
    var_a = (square_a - mean_a.square()).clamp_min(0)
    floor = 0.005**2  # about one 8-bit quantisation step: less contrast than that is not structure
    correlation = (product - mean_g * mean_a) / ((var_g + floor) * (var_a + floor)).sqrt()
    overlap = (mean_inside > 0.99).float()
    weight = overlap * (var_g.sqrt() / 0.1).clamp_max(1)
    total = weight.sum(dim=(1, 2, 3)).clamp_min(1e-6)
    # Little overlap is little evidence: the score is damped when less than half of the structure is inside.
    structure = (var_g.sqrt() / 0.1).clamp_max(1).sum(dim=(1, 2, 3)).clamp_min(1e-6)
    trust = (2 * weight.sum(dim=(1, 2, 3)) / structure).clamp_max(1)
    score = trust * (weight * correlation).sum(dim=(1, 2, 3)) / total
    copied = (weight * (correlation >= COPIED)).sum(dim=(1, 2, 3)) / structure
    return score, copied, correlation * overlap


def _box_mean(maps: Tensor) -> Tensor:
    """Mean over WINDOW × WINDOW pixels, fewer at the border, by running sums along each axis."""
    for axis in (-1, -2):
        side, radius = maps.shape[axis], WINDOW // 2
        place = torch.arange(side, device=maps.device)
        above, below = (place + radius).clamp_max(side - 1), place - radius - 1
        sums = maps.cumsum(dim=axis)
        start = sums.index_select(axis, below.clamp_min(0))
        outside = (below < 0).view(-1, *[1] * (-1 - axis))
        total = sums.index_select(axis, above) - start.masked_fill(outside, 0)
        count = (above - below.clamp_min(-1)).view(-1, *[1] * (-1 - axis))
        maps = total / count
    return maps


def _warp(images: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Images under the map, and 1 where the map stays inside them."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    inside = (grid.abs().amax(dim=-1, keepdim=True) <= 1).permute(0, 3, 1, 2).to(images.dtype)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border"), inside


def _shrink(images: Tensor, side: int) -> Tensor:
    return images if images.shape[-1] == side else F.adaptive_avg_pool2d(images, side)


def _standardise(images: Tensor, mask: Tensor) -> Tensor:
    total = mask.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    centred = images - (images * mask).sum(dim=(2, 3), keepdim=True) / total
    variance = (centred.square() * mask).sum(dim=(2, 3), keepdim=True) / total
    return centred / (variance + 1e-6).sqrt()


def _correlation(fixed: Tensor, warped: Tensor, inside: Tensor) -> Tensor:
    total = inside.sum(dim=(1, 2, 3))
    product = (_standardise(fixed, inside) * _standardise(warped, inside) * inside).sum(dim=(1, 2, 3))
    enough = total >= 0.25 * inside[0].numel()
    return torch.where(enough, product / total.clamp_min(1), torch.full_like(total, -1.0))
