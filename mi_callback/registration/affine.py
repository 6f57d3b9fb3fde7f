"""The affine map under which two images, or volumes, correlate best: an exhaustive coarse search, then Gauss-Newton.

Only the magnitude of the correlation counts: an image with inverted contrast is aligned as well.
"""

import math
from functools import lru_cache
from itertools import combinations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.filters import gradient, standardise
from mi_callback.images.resizing import shrink
from mi_callback.images.warping import homogeneous_coordinates, warp

LEVELS = ((0.25, 10), (0.5, 4), (1.0, 4))
"""Side of each pyramid level, as a share of the images', and Gauss-Newton iterations there."""

ROTATIONS = {2: (15.0, 30.0), 3: (20.0,)}
"""Rotations in degrees, by the number of dimensions, that are tried both ways in each plane."""

ZOOMS = (0.75, 1.0, 1.33)
"""Magnifications that are tried with each rotation and every shift before the first Gauss-Newton step."""

SEARCHED = 12
"""Side, in pixels, at which they are tried."""

SHIFTS = {2: 5, 3: 4}
"""Farthest shift that is tried along each axis, in those pixels, by the number of dimensions."""

STARTS = 2
"""Maps found by the search that Gauss-Newton starts from, beside the one that moves nothing."""

FIRST = 3
"""Gauss-Newton iterations on the coarsest level from every start; the rest go on from the best."""

LEAST_OVERLAP = 0.35
"""Share of the masked area that a start must cover."""

LEAST_COMPARED = 0.25
"""Share of it that must lie in the overlap for the images to be compared at all."""


def search(fixed: Tensor, moving: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The best maps out of all combinations of rotation, magnification and shift; unturned, finer shifts are tried too.

    Evidence is the overlap times −log(1 − ρ²): the likelihood ratio of Gaussian images, in which little overlap says
    little.

    Args:
        fixed, moving: `(p, 1, *spatial)`, generated images and references on the coarsest level.
        mask: 1 where the generated image counts, 0 elsewhere, of the same shape.

    Returns:
        Maps `(p, STARTS, dims, dims + 1)` as `affine_grid` takes them, best first, and no two that differ by whole
        pixels of the search alone; and the evidence of the best, `(p,)`; larger is closer.
    """
    dims = fixed.ndim - 2
    turned, inside, maps = _tried(moving)
    turned = (turned - moving.flatten(1).mean(dim=1)[:, None, None]) * inside
    fixed, mask = shrink(fixed, SEARCHED), shrink(mask, SEARCHED)
    ours = (fixed - fixed.flatten(1).mean(dim=1).view(-1, *(1 for _ in fixed.shape[1:]))) * mask
    # Sums over the overlap, for each map at every shift, are products with shifted copies of the fixed image.
    f, ones = (_shifted(images).transpose(1, 2) for images in (ours, mask))
    inside = inside.expand_as(turned)
    count, sum_m, squares_m = (torch.cat([inside, turned, turned.square()], dim=1) @ ones).chunk(3, dim=1)
    sum_f, products = (torch.cat([inside, turned], dim=1) @ f).chunk(2, dim=1)
    count = count.clamp_min(1)
    covariance = products - sum_f * sum_m / count
    variance_f = inside @ f.square() - sum_f.square() / count
    variance_m = squares_m - sum_m.square() / count
    correlation = covariance.square() / (variance_f.clamp_min(1e-4) * variance_m.clamp_min(1e-4))
    overlap = count / mask.flatten(1).sum(dim=1).clamp_min(1)[:, None, None]
    evidence = -overlap * torch.log1p(-correlation.clamp(0, 0.999))
    evidence, place = evidence.masked_fill(overlap < LEAST_OVERLAP, -1.0).max(dim=2)
    evidence, chosen = evidence.topk(STARTS, dim=1)
    reach = SHIFTS[dims]
    steps = 2 * reach + 1
    place = place.gather(1, chosen)
    along = [place // steps**axis % steps - reach for axis in range(dims)]  # x, the last axis, first
    # The fixed image moved by one shift lies over the moving one moved by its opposite.
    shift = -2 / SEARCHED * torch.stack(along, dim=-1).to(fixed)
    linear, offset = maps[chosen].split([dims, 1], dim=-1)
    return torch.cat([linear, linear @ shift[..., None] + offset], dim=-1), evidence[:, 0]


def _tried(moving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """References under every map that is tried, but for shifts by whole pixels of the search.

    Returns:
        These, `(p, k, pixels)`, 1 where they lie inside, `(k, pixels)`, and the maps, `(k, dims, dims + 1)`.
    """
    dims = moving.ndim - 2
    turns, between = (maps.to(moving) for maps in (F.pad(_linear_maps(dims), (0, 1)), _between(dims, moving.shape[-1])))
    parts = [_sampled(shrink(moving, SEARCHED), turns), _sampled(moving, between)]
    turned, inside = (torch.cat(images).flatten(2).transpose(0, 1) for images in zip(*parts, strict=True))
    return turned, (inside[0] > 0.99).to(turned), torch.cat([turns, between])


def _sampled(moving: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
    """All images under each map, as the search sees them, `(k, p, *spatial)`, and how much of each pixel is inside."""
    # Images as channels: where they are sampled is worked out once for all.
    together = moving.transpose(0, 1).expand(len(maps), len(moving), *moving.shape[2:])
    return tuple(shrink(images, SEARCHED) for images in warp(together, maps))


def align_coarsely(fixed: Tensor, moving: Tensor, mask: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Map from generated to reference, fitted on the coarsest level, and how well they agree under it.

    Args:
        fixed, moving, mask: As `search` takes them.
        starts: Maps that it found.

    Returns:
        Maps `(p, dims, dims + 1)`, and correlation over the overlap, unsigned, `(p,)`.
    """
    # Most copies are hardly moved.
    starts = torch.cat([starts, unmoved(starts[:, :1])], dim=1)
    ours, theirs, where = (images.repeat_interleave(starts.shape[1], dim=0) for images in (fixed, moving, mask))
    tried, correlation = _gauss_newton(ours, theirs, where, starts.flatten(0, 1), FIRST)
    best = correlation.view(starts.shape[:2]).argmax(dim=1)
    theta = tried.view_as(starts)[torch.arange(len(best), device=best.device), best]
    return _gauss_newton(fixed, moving, mask, theta, LEVELS[0][1] - FIRST)


def align_further(level: int, fixed: Tensor, moving: Tensor, mask: Tensor, theta: Tensor) -> Tensor:
    """The map after another of the `LEVELS`, at which these are, from one that those before it found."""
    return _gauss_newton(fixed, moving, mask, theta, LEVELS[level][1])[0]


def unmoved(theta: Tensor) -> Tensor:
    """Maps that leave everything where it is, of the shape of others."""
    return torch.eye(*theta.shape[-2:]).to(theta).expand_as(theta)


@lru_cache
def _between(dims: int, side: int) -> Tensor:
    """Shifts by whole pixels of an image of this side that are less than one of the search, `(k, dims, dims + 1)`.

    Half a pixel from where they coincide, the fine edges of a copy agree no more than those of strangers.
    """
    shifts = torch.tensor(list(product(range(side // SEARCHED), repeat=dims))[1:]).view(-1, dims, 1)
    return torch.cat([torch.eye(dims).repeat(len(shifts), 1, 1), 2 / side * shifts], dim=2)


@lru_cache
def _linear_maps(dims: int) -> Tensor:
    """Every rotation in every plane, and none, with every magnification, `(k, dims, dims)`."""
    maps = [torch.eye(dims)]
    for first, second in combinations(range(dims), 2):
        for degrees in ROTATIONS[dims]:
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            for sine in (sin, -sin):
                turn = torch.eye(dims)
                turn[first, first] = turn[second, second] = cos
                turn[first, second], turn[second, first] = sine, -sine
                maps.append(turn)
    return torch.stack([turn / zoom for turn in maps for zoom in ZOOMS])


def _shifted(images: Tensor) -> Tensor:
    """Images `(p, 1, *spatial)` moved by every shift, zero outside: `(p, shifts, pixels)`."""
    dims = images.ndim - 2
    moved = F.pad(images[:, 0], (SHIFTS[dims],) * 2 * dims)
    for axis, side in enumerate(images.shape[2:], start=1):
        moved = moved.unfold(axis, side, 1)
    return moved.reshape(len(images), -1, images[0].numel())


def _gauss_newton(fixed: Tensor, moving: Tensor, mask: Tensor, theta: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Inverse compositional steps; returns the best map seen and its correlation over the overlap, unsigned, `(p,)`."""
    jacobian, area = _jacobian(fixed, mask), mask.flatten(1).sum(dim=1)
    # Without their means, small variances do not drown in the squares of these.
    fixed, moving = (image - image.mean(dim=tuple(range(1, image.ndim)), keepdim=True) for image in (fixed, moving))
    images = torch.cat([torch.ones_like(fixed), fixed, moving], dim=1).flatten(2)
    best, best_theta = torch.full_like(area, -1.0), theta
    damping = 1e-2 * torch.eye(jacobian.shape[1], device=fixed.device)
    for iteration in range(iterations + 1):
        warped, inside = warp(moving, theta)
        inside = (inside * mask).flatten(2)
        images[:, 2:] = warped.flatten(2)
        weighted = images * inside
        correlation, weights = _standardised(weighted @ images.transpose(1, 2), area)
        better = correlation.abs() > best
        best = torch.where(better, correlation.abs(), best)
        best_theta = torch.where(better[:, None, None], theta, best_theta)
        if iteration == iterations:
            break
        residual = weights[:, None] @ weighted
        if iteration == 0:  # that of later overlaps would save some steps where structure reaches the border
            hessian = (jacobian * inside) @ jacobian.transpose(1, 2)
            hessian = hessian + damping * hessian.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-6)[:, None, None]
        step = torch.linalg.solve(hessian, jacobian @ residual.transpose(1, 2)).view_as(theta)
        theta = _compose(theta, step.clamp(-0.3, 0.3))
    return best_theta, best


def _jacobian(fixed: Tensor, mask: Tensor) -> Tensor:
    """d image / d parameters of x ↦ x + A (x, y, …, 1), in normalised coordinates: `(p, dims · (dims + 1), pixels)`."""
    side, sums = fixed.shape[-1], homogeneous_coordinates(*fixed.shape[2:]).to(fixed)
    slopes = gradient(standardise(fixed, mask), mask)
    return torch.cat([slope.flatten(2) * side / 2 * sums for slope in slopes], dim=1)


def _standardised(products: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation of two images, and the weights of 1 and of each in their difference when both are standardised.

    Args:
        products: Sums over the overlap of products of 1 and the two with each other, `(p, 3, 3)`.
        area: Of the mask, `(p,)`; of less than `LEAST_COMPARED` of it the correlation is 0.

    Returns:
        `(p,)` and `(p, 3)`: what times 1 and the images is the second, or its negative where they correlate negatively,
        minus the first.
    """
    total = products[:, 0, 0]
    moments = products / total.clamp_min(1)[:, None, None]
    mean = moments[:, 0, 1:]
    covariance = moments[:, 1:, 1:] - mean[:, :, None] * mean[:, None]
    deviation = (covariance.diagonal(dim1=1, dim2=2).clamp_min(0) + 1e-6).sqrt()
    correlation = (covariance[:, 0, 1] / deviation.prod(dim=1)).where(total >= LEAST_COMPARED * area, 0.0)
    sign = torch.where(correlation < 0, -1.0, 1.0)
    scale = torch.stack([-torch.ones_like(sign), sign], dim=1) / deviation
    return correlation, torch.cat([-(scale * mean).sum(dim=1, keepdim=True), scale], dim=1)


def _compose(theta: Tensor, step: Tensor) -> Tensor:
    """`theta` after the inverse of x ↦ x + step (x, 1), kept within the affine maps that a copy can have."""
    dims = theta.shape[1]
    row = torch.eye(dims + 1, device=theta.device)[dims:].expand(len(theta), 1, -1)
    increment = torch.cat([step + torch.eye(dims, dims + 1, device=theta.device), row], dim=1)
    composed = (torch.cat([theta, row], dim=1) @ torch.linalg.inv(increment))[:, :dims]
    # A map that left this box has diverged; the best one seen is what counts.
    return torch.cat([composed[..., :dims].clamp(-2, 2), composed[..., dims:].clamp(-0.9, 0.9)], dim=2)


def at_level(level: int, *images: Tensor) -> tuple[Tensor, ...]:
    """Images `(p, 1, *spatial)` as that one of `LEVELS` sees them."""
    return tuple(shrink(image, round(LEVELS[level][0] * image.shape[-1])) for image in images)
