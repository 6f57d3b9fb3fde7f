"""Images made for tests, `(n, 1, *spatial)` in [0, 1]: random anatomy of known structure, and what is done to it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from mi_callback.images.thumbnails import THUMBNAIL_SIDE

SIDE, VOLUME_SIDE = THUMBNAIL_SIDE[2], THUMBNAIL_SIDE[3]


def texture(n: int, seed: int = 0, side: int = SIDE) -> Tensor:
    """Smooth random images with structure at several scales everywhere: nothing that all share."""
    rng = np.random.default_rng(seed)
    scales = (side / 40, side / 16, side / 8)
    images = [sum(s * gaussian_filter(rng.normal(size=(side, side)), s) for s in scales) for _ in range(n)]
    return torch.from_numpy(np.stack([_stretch(image) for image in images])).float()[:, None]


def oval(n: int, seed: int = 0, side: int = SIDE) -> Tensor:
    """Textures within an oval that fades out."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side),) * 2, indexing="ij")
    inside = 1 / (1 + np.exp(20 * (np.sqrt((y / 0.8) ** 2 + (x / 0.65) ** 2) - 1)))
    return (0.2 + 0.8 * texture(n, seed, side)) * torch.from_numpy(inside).float()


def ellipsoid(n: int, seed: int = 0, fade: float = 4, floor: float = 0.0) -> Tensor:
    """Textures within an ellipsoid that fades out, of brightness `floor` to 1: a sharp edge would agree."""
    rng, side = np.random.default_rng(seed), VOLUME_SIDE
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side),) * 3, indexing="ij")
    inside = 1 / (1 + np.exp(fade * (np.sqrt((z / 0.7) ** 2 + (y / 0.8) ** 2 + (x / 0.65) ** 2) - 1)))
    made = []
    for _ in range(n):
        image = sum(s**1.5 * gaussian_filter(rng.normal(size=(side,) * 3), s) for s in (1.5, 3, 6))
        made.append((floor + (1 - floor) * _stretch(image)) * inside)
    return torch.from_numpy(np.stack(made)).float()[:, None]


def tissues(n: int, seed: int = 0, scales: tuple[int, ...] = (4, 8, 12), whole: bool = False) -> Tensor:
    """Random regions of four grey values, each of which ends where another begins, in an oval or the whole image."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, SIDE)
    inside = ((axis[:, None] / 0.8) ** 2 + (axis[None] / 0.65) ** 2 < 1) | whole
    made = []
    for _ in range(n):
        image = sum(s * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in scales)
        labels = np.digitize(image, np.quantile(image[inside], [0.25, 0.5, 0.75]))
        made.append(gaussian_filter(np.take([0.3, 0.5, 0.75, 1.0], labels) * inside, 0.6))
    return torch.from_numpy(np.stack(made)).float()[:, None]


def clouds(n: int, seed: int = 0, dims: int = 2) -> Tensor:
    """Smooth images, or volumes, with structure at all scales, up to the border."""
    generator = torch.Generator().manual_seed(seed)
    side, grids, mode = (SIDE, (6, 12, 24), "bicubic") if dims == 2 else (VOLUME_SIDE, (5, 9, 16), "trilinear")
    image = sum(
        F.interpolate(torch.rand(n, 1, *(k,) * dims, generator=generator), (side,) * dims, mode=mode) for k in grids
    )
    space = tuple(range(2, dims + 2))
    low, high = image.amin(space, keepdim=True), image.amax(space, keepdim=True)
    return (image - low) / (high - low)


def write_blocks(root: Path, names: Sequence[str], coarse: np.ndarray) -> None:
    """People as pictures of 48 pixels below `root`: images `(n, 6, 6)` of bytes, magnified, each under its name."""
    for name, image in zip(names, coarse, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC).save(root / name)


def as_bytes(images: Tensor) -> Tensor:
    """Thumbnails of images `(n, 1, *spatial)`: uint8 `(n, *spatial)`."""
    return (images[:, 0].clamp(0, 1) * 255).round().to(torch.uint8)


def affine_map(
    rotation: float = 0.0, zoom: float | tuple[float, float] = 1.0, shift: tuple[float, float] = (0.0, 0.0), shear=0.0
) -> Tensor:
    """From generated to reference coordinates, `(1, 2, 3)`: degrees, factors along x and y, shares of the side."""
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    zoom_x, zoom_y = zoom if isinstance(zoom, tuple) else (zoom, zoom)
    linear = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[zoom_x, shear], [0.0, zoom_y]])
    return torch.cat([linear, 2 * torch.tensor(shift)[:, None]], dim=1)[None]


def volume_map(about: str, rotation: float, zoom: float = 1.0, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Tensor:
    """From generated to reference coordinates, `(1, 3, 4)`: a turn about one axis; shifts in shares of the side."""
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[about]
    turn = torch.eye(3)
    turn[first, first] = turn[second, second] = cos
    turn[first, second], turn[second, first] = -sin, sin
    return torch.cat([turn * zoom, 2 * torch.tensor(shift)[:, None]], dim=1)[None]


def move(images: Tensor, theta: Tensor) -> Tensor:
    """Images, or volumes, under maps, as torch moves them; black outside."""
    theta = theta.expand(len(images), -1, -1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def corner_distance(one: Tensor, other: Tensor) -> Tensor:
    """Largest distance, in pixels of thumbnails, between where two maps take corners of the central half, `(n,)`."""
    dims = one.shape[1]
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * dims)
    corners = torch.cat([corners, torch.ones(len(corners), 1)], dim=1)
    return (corners @ (one - other).transpose(1, 2)).norm(dim=2).amax(dim=1) * THUMBNAIL_SIDE[dims] / 2


def _stretch(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (image.max() - image.min())
