"""Which samples are copies, told without the detector: by marks that one training image alone has, and by registration
of every sample, and of its halves, with every training image."""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.perturbations import blur

MARGIN, DOT, PITCH = 3, 3, 5
"""Pixels from the corner to a mark of 3 × 3 dots, of a dot, and from dot to dot."""
PATTERNS = list(combinations(range(9), 4))
"""Every mark has four of its nine dots."""
LIT, DARK, BRIGHTNESS = 0.45, 0.25, 0.9

BAND = 1.5, 4.0
"""Blurs, in pixels of 96, between which structure is compared: finer one is left out, for samples may be smooth."""
STEPS, RATE = 20, 0.012
SMALLER = 3
"""Structure is compared at a third of the resolution."""
PARTS = {"whole": slice(None), "upper": slice(0, 16), "lower": slice(16, 32)}
"""Rows that are compared, at that resolution: who writes an image line by line may copy one above, another below."""


def mark(images: Tensor, marks: list[int]) -> Tensor:
    """Images `(n, 1, h, w)` in [0, 1], each with its mark in the upper left corner, which is empty in brain slices."""
    marked = images.clone()
    for image, number in zip(marked, marks, strict=True):
        for dot in PATTERNS[number]:
            image[:, *_dot(dot)] = BRIGHTNESS
    return marked


def marks_of(images: Tensor) -> list[int | None]:
    """The mark that each image shows: four dots are bright, the other five are dark; None where that is not so."""
    dots = torch.stack([images[:, 0, *_dot(dot)].flatten(1).mean(dim=1) for dot in range(9)], dim=1)
    found: list[int | None] = []
    for image in dots:
        lit = tuple(torch.nonzero(image > LIT).flatten().tolist())
        clear = len(lit) == 4 and bool((image < DARK).sum() == 5)
        found.append(PATTERNS.index(lit) if clear else None)
    return found


def registered(samples: Tensor, train: Tensor, rows: slice = PARTS["whole"]) -> tuple[Tensor, Tensor]:
    """Each sample with each training image, aligned by an affine map.

    Args:
        samples: `(n, 1, 96, 96)` in [0, 1].
        train: `(m, 1, 96, 96)`.
        rows: What of a sample is compared, out of `PARTS`.

    Returns:
        `(n,)` correlation of the structure of a sample with that of its closest training image, larger is closer, and
        the row of that.
    """
    fixed, moving = _structure(samples), _structure(train)
    best = [_aligned(one.expand(len(moving), -1, -1, -1), moving, rows) for one in fixed]
    found = torch.stack(best).max(dim=1)
    return found.values, found.indices


def _dot(number: int) -> tuple[slice, slice]:
    row, column = (MARGIN + PITCH * place for place in divmod(number, 3))
    return slice(row, row + DOT), slice(column, column + DOT)


def _structure(images: Tensor) -> Tensor:
    """At a lower resolution, without the corner in which marks are."""
    inside = images.clone()
    inside[:, :, : MARGIN + 3 * PITCH, : MARGIN + 3 * PITCH] = 0
    return F.avg_pool2d(blur(inside, BAND[0]) - blur(inside, BAND[1]), SMALLER)


def _aligned(fixed: Tensor, moving: Tensor, rows: slice) -> Tensor:
    """Correlation of pairs `(p, 1, h, w)` after gradient ascent over the affine map of the moving images."""
    identity = torch.eye(2, 3).expand(len(moving), -1, -1)
    change = torch.zeros(len(moving), 2, 3, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=RATE)
    seen = fixed[:, :, rows]
    best = _correlation(seen, moving[:, :, rows])
    for _ in range(STEPS):
        grid = F.affine_grid(identity + change, list(moving.shape), align_corners=False)
        found = _correlation(seen, F.grid_sample(moving, grid, align_corners=False)[:, :, rows])
        best = torch.maximum(best, found.detach())
        optimizer.zero_grad()
        (-found.sum()).backward()
        optimizer.step()
    return best


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(_centred(one), _centred(other), dim=1, eps=1e-6)


def _centred(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return flat - flat.mean(dim=1, keepdim=True)
