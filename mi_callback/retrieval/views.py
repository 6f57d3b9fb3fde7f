"""Views in which images are looked up: a copy that was turned, moved, magnified, blurred or recoloured is a copy.

Most are views of the training images alone: they cost time once, when the detector is fitted, instead of for every
generated image. Others bring both sides to where they agree, whatever was done to one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_callback.images.contrast.edges import edge_strength
from mi_callback.images.filters import gaussian_blur
from mi_callback.images.frames import frame_by_moments
from mi_callback.images.intensity import Intensity, normalise_intensity
from mi_callback.images.perturbations import affine
from mi_callback.images.poses import POSES
from mi_callback.images.resizing import resize
from mi_callback.images.thumbnails import THUMBNAIL_SIDE
from mi_callback.images.warping import Border


@dataclass(frozen=True)
class View:
    """Another look at images.

    Attributes:
        change: Of checked images `(n, c, h, w)`, or volumes, whose encoder takes that intensity (see
            `preprocessing.preprocess`).
        pose: What takes a query that resembles the changed image on to where it resembles the image itself, but for
            what registration finds.
        recoloured: Whether it shows another contrast, so that grey values cannot align what resembles it.
        beside: View of the queries, in every pose, that it is compared with; None for queries as they are.
    """

    change: Callable[[Tensor, Intensity], Tensor]
    pose: str = "identity"
    recoloured: bool = False
    beside: str | None = None

    def of(self, images: Tensor, intensity: Intensity) -> Tensor:
        """Images in this view; those of which it shows nothing stay as they are."""
        changed = self.change(images, intensity)
        flat = (changed if isinstance(intensity, str) else changed.clamp(*intensity)).flatten(1)
        empty = flat.amin(dim=1) == flat.amax(dim=1)
        if empty.any():
            changed = changed.clone()
            changed[empty] = resize(images[empty], changed.shape[2:])
        return changed


SOFTENED = 1 / 64
"""Blur, as a share of the longer side, under which the images are seen as a soft generator would draw them."""

LEANING = 12.0
"""Degrees by which images are turned whose edges are looked up: less than in their own contrast, for an encoder knows
edges less well once they are turned."""

VIEWS: dict[str, View] = {
    "turned_left": View(lambda x, _: _resampled(x, rotation=-25.0)),
    "turned_right": View(lambda x, _: _resampled(x, rotation=25.0)),
    "magnified": View(lambda x, _: _resampled(x, scale_x=1.4, scale_y=1.4)),
    "quarter_turn": View(lambda x, _: POSES["rotation_90"](x), "rotation_270"),
    "other_contrast": View(lambda x, intensity: _as_other_contrast(x, intensity), recoloured=True),
    "softened": View(lambda x, _: gaussian_blur(x, SOFTENED * max(x.shape[-2:]))),
    "framed": View(lambda x, _: frame_by_moments(x), beside="framed"),
    "edges": View(lambda x, intensity: edges_as_images(x, intensity), recoloured=True, beside="edges"),
    "edges_left": View(lambda x, intensity: _turned_edges(x, intensity, -LEANING), recoloured=True, beside="edges"),
    "edges_right": View(lambda x, intensity: _turned_edges(x, intensity, LEANING), recoloured=True, beside="edges"),
    "framed_edges": View(lambda x, y: frame_by_moments(edges_as_images(x, y)), recoloured=True, beside="framed_edges"),
}
"""Name → view beside the images as they are."""

VOLUME_VIEWS = {name: VIEWS[name] for name in ("magnified", "framed", "edges")}
"""The same of volumes, magnified in the plane: each view costs a pass over all slices."""


def views_of(dims: int) -> dict[str, View]:
    """Views of images (2) or volumes (3)."""
    return VIEWS if dims == 2 else VOLUME_VIEWS


def views_of_queries(dims: int) -> list[str]:
    """Views that queries are changed into as well."""
    return list(dict.fromkeys(view.beside for view in views_of(dims).values() if view.beside is not None))


def _resampled(images: Tensor, **change: float) -> Tensor:
    """Images under an affine change, the borders as dark as the darkest pixel."""
    planes = images.flatten(1, -3)  # of volumes, every slice alike
    return affine(planes, **change, border=Border.DARKEST).view_as(images)


def _as_other_contrast(images: Tensor, intensity: Intensity) -> Tensor:
    """What is dark becomes bright and what is bright dark, but black stays black: T1 as T2 would show it."""
    low, contrast = _range(images, intensity)
    grey = ((images - low) / contrast).clamp(0, 1)
    return torch.minimum(4 * grey, 1.25 - grey) * contrast + low


def edges_as_images(images: Tensor, intensity: Intensity) -> Tensor:
    """Edges of images, drawn in their units, or of a window of these.

    As fine as those of the thumbnails, whatever the size of the images.
    """
    scale = max(images.shape[2:]) / THUMBNAIL_SIDE[images.ndim - 2]
    low, contrast = _range(images, intensity)
    whole = isinstance(intensity, str)
    grey = normalise_intensity(images, "quantile") if whole else ((images - low) / contrast).clamp(0, 1)
    drawn = edge_strength(grey, scale)
    return low + drawn / _extreme(drawn, "amax").clamp_min(torch.finfo(drawn.dtype).tiny) * contrast


def _turned_edges(images: Tensor, intensity: Intensity, degrees: float) -> Tensor:
    return edges_as_images(_resampled(images, rotation=degrees), intensity)


def _range(images: Tensor, intensity: Intensity) -> tuple[Tensor, Tensor]:
    """The darkest value that counts, and how much brighter the brightest is: of each image, or of the window."""
    low, high = _extreme(images, "amin"), _extreme(images, "amax")
    if not isinstance(intensity, str):
        low, high = (torch.full_like(low, value) for value in intensity)
    return low, (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def _extreme(images: Tensor, which: Literal["amin", "amax"]) -> Tensor:
    """Darkest or brightest pixel of each image, in the shape that broadcasts."""
    return getattr(images, which)(dim=tuple(range(1, images.ndim)), keepdim=True)
