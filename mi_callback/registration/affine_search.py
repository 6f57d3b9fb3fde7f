"""The affine maps under which two images, or volumes, may correlate best: every combination of a coarse grid is tried.

Only the magnitude of the correlation counts: an image with inverted contrast is found as well.
"""

import math
from functools import lru_cache
from itertools import combinations, product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.resizing import shrink
from mi_callback.images.warping import warp
from mi_callback.registration.config import AffineSearchConfig


def search_maps(
    fixed: Float[Tensor, "p 1 *spatial"],
    moving: Float[Tensor, "p 1 *spatial"],
    mask: Float[Tensor, "p 1 *spatial"],
    config: AffineSearchConfig,
) -> tuple[Float[Tensor, "p starts dims dims+1"], Float[Tensor, " p"]]:
    """The best maps out of all combinations of rotation, magnification and shift; unturned, finer shifts are tried too.

    The evidence for a map is o · −log(1 − ρ²), where o is the share of the mask that overlaps and ρ the correlation
    there: the likelihood ratio of Gaussian images, in which little overlap says little.

    Args:
        fixed, moving: Generated images and references on the coarsest level of the pyramid.
        mask: 1 where the generated image counts, 0 elsewhere.
        config: What is tried.

    Returns:
        Maps from generated to reference coordinates as `affine_grid` takes them, best first, and no two that differ by
        whole pixels of the search alone; and the evidence of the best: larger is closer, 0 or more.

    References:
        Jenkinson and Smith, "A global optimisation method for robust affine registration of brain images", MedIA 2001
        (a coarse search of rotations before local optimisation).
    """
    dims = fixed.ndim - 2
    warped, inside, maps = _try_maps(moving, config)
    warped = (warped - moving.flatten(1).mean(dim=1)[:, None, None]) * inside
    fixed, mask = shrink(fixed, config.side), shrink(mask, config.side)
    correlation, overlap = _correlate_shifted(fixed, mask, warped, inside, config)
    evidence = -overlap * torch.log1p(-correlation.clamp(0, 0.999))
    evidence, place = evidence.masked_fill(overlap < config.least_overlap, -1.0).max(dim=2)
    evidence, chosen = (found[:, : config.starts] for found in evidence.sort(dim=1, descending=True, stable=True))
    shift = _shift_of(place.gather(1, chosen), dims, config).to(fixed)
    linear, offset = maps[chosen].split([dims, 1], dim=-1)
    return torch.cat([linear, linear @ shift[..., None] + offset], dim=-1), evidence[:, 0]


def _correlate_shifted(
    fixed: Tensor, mask: Tensor, warped: Tensor, inside: Tensor, config: AffineSearchConfig
) -> tuple[Tensor, Tensor]:
    """Squared correlation of each fixed image at every shift with the reference under each map, and their overlap.

    Args:
        fixed, mask: As the search sees them, `(p, 1, *spatial)`.
        warped, inside: As `_try_maps` returns them, the former without its mean.

    Returns:
        `(p, maps, shifts)` each; the overlap as a share of the mask.
    """
    centred = (fixed - fixed.flatten(1).mean(dim=1).view(-1, *(1 for _ in fixed.shape[1:]))) * mask
    # Sums over the overlap, for each map at every shift, are products with shifted copies of the fixed image.
    f, ones = (_shift_all(images, config.reach).transpose(1, 2) for images in (centred, mask))
    inside = inside.expand_as(warped)
    count, sum_m, squares_m = (torch.cat([inside, warped, warped.square()], dim=1) @ ones).chunk(3, dim=1)
    sum_f, products = (torch.cat([inside, warped], dim=1) @ f).chunk(2, dim=1)
    count = count.clamp_min(1)
    covariance = products - sum_f * sum_m / count
    variance_f = inside @ f.square() - sum_f.square() / count
    variance_m = squares_m - sum_m.square() / count
    correlation = covariance.square() / (variance_f.clamp_min(1e-4) * variance_m.clamp_min(1e-4))
    return correlation, count / mask.flatten(1).sum(dim=1).clamp_min(1)[:, None, None]


def _try_maps(moving: Tensor, config: AffineSearchConfig) -> tuple[Tensor, Tensor, Tensor]:
    """References under every map that is tried, but for shifts by whole pixels of the search.

    Returns:
        These, `(p, maps, pixels)`, 1 where they lie inside, `(maps, pixels)`, and the maps, `(maps, dims, dims + 1)`.
    """
    dims, side = moving.ndim - 2, moving.shape[-1]
    turns = F.pad(_linear_maps(dims, config), (0, 1)).to(moving)
    between = _shifts_between(dims, side, config.side).to(moving)
    parts = [_sample(shrink(moving, config.side), turns, config.side), _sample(moving, between, config.side)]
    warped, inside = (torch.cat(images).flatten(2).transpose(0, 1) for images in zip(*parts, strict=True))
    return warped, (inside[0] > 0.99).to(warped), torch.cat([turns, between])


def _sample(moving: Tensor, maps: Tensor, side: int) -> tuple[Tensor, ...]:
    """All images under each map as the search sees them, `(maps, p, *spatial)`, and the share of each pixel inside."""
    # Images as channels: where they are sampled is worked out once for all.
    together = moving.transpose(0, 1).expand(len(maps), len(moving), *moving.shape[2:])
    return tuple(shrink(images, side) for images in warp(together, maps))


@lru_cache
def _linear_maps(dims: int, config: AffineSearchConfig) -> Tensor:
    """Every rotation in every plane, and none, with every magnification, `(maps, dims, dims)`."""
    maps = [torch.eye(dims)]
    for first, second in combinations(range(dims), 2):
        for degrees in config.rotations:
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            for sine in (sin, -sin):
                turn = torch.eye(dims)
                turn[first, first] = turn[second, second] = cos
                turn[first, second], turn[second, first] = sine, -sine
                maps.append(turn)
    return torch.stack([turn / zoom for turn in maps for zoom in config.zooms])


@lru_cache
def _shifts_between(dims: int, side: int, search_side: int) -> Tensor:
    """Shifts by whole pixels of an image of this side that are less than one of the search, `(maps, dims, dims + 1)`.

    Half a pixel from where they coincide, the fine edges of a copy agree no more than those of strangers.
    """
    shifts = torch.tensor(list(product(range(side // search_side), repeat=dims))[1:]).view(-1, dims, 1)
    return torch.cat([torch.eye(dims).repeat(len(shifts), 1, 1), 2 / side * shifts], dim=2)


def _shift_all(images: Tensor, reach: int) -> Tensor:
    """Images `(p, 1, *spatial)` moved by every shift within reach, zero outside: `(p, shifts, pixels)`."""
    dims = images.ndim - 2
    moved = F.pad(images[:, 0], (reach,) * 2 * dims)
    for axis, side in enumerate(images.shape[2:], start=1):
        moved = moved.unfold(axis, side, 1)
    return moved.reshape(len(images), -1, images[0].numel())


def _shift_of(place: Tensor, dims: int, config: AffineSearchConfig) -> Tensor:
    """The shift of the moving image, in normalised coordinates, at a place in the list of `_shift_all`, `(…, dims)`."""
    steps = 2 * config.reach + 1
    along = [place // steps**axis % steps - config.reach for axis in range(dims)]  # x, the last axis, first
    # The fixed image moved by one shift lies over the moving one moved by its opposite.
    return -2 / config.side * torch.stack(along, dim=-1)
