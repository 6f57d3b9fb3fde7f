"""Views in which volumes are looked up: one that was moved, magnified or recoloured is found by one of them.

Images have a descriptor for that (`encoders.descriptor`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_callback.images.contrast.edges import edge_strength
from mi_callback.images.frames import frame_by_moments
from mi_callback.images.intensity import Intensity, normalise_intensity
from mi_callback.images.perturbations import affine
from mi_callback.images.resizing import resize
from mi_callback.images.thumbnails import THUMBNAIL_SIDE
from mi_callback.images.warping import Border


@dataclass(frozen=True)
class View:
    """Another look at volumes.

    Attributes:
        change: Of checked volumes `(n, c, d, h, w)` under the intensity that their encoder takes (see `preprocess`).
        recoloured: Whether it shows another contrast, so that grey values cannot align what resembles it.
        beside: View of the queries, in every pose, that it is compared with; None for queries as they are.
    """

    change: Callable[[Tensor, Intensity], Tensor]
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


VIEWS: dict[str, View] = {
    "magnified": View(lambda x, _: _magnified(x, 1.4)),
    "framed": View(lambda x, _: frame_by_moments(x), beside="framed"),
    "edges": View(lambda x, intensity: edges_as_images(x, intensity), recoloured=True, beside="edges"),
}
"""Name → view beside the volumes as they are; each costs a pass over all slices. The first is of training volumes
alone, the others bring both sides to where they agree, whatever was done to one of them."""


def views_of(dims: int) -> dict[str, View]:
    """Views of images (2), which have none, or volumes (3)."""
    return VIEWS if dims == 3 else {}


def views_of_queries(dims: int) -> list[str]:
    """Views that queries are changed into as well."""
    return list(dict.fromkeys(view.beside for view in views_of(dims).values() if view.beside is not None))


def _magnified(volumes: Tensor, zoom: float) -> Tensor:
    """Every slice magnified about its centre."""
    planes = volumes.flatten(1, -3)
    return affine(planes, scale_x=zoom, scale_y=zoom, border=Border.DARKEST).view_as(volumes)


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


def _range(images: Tensor, intensity: Intensity) -> tuple[Tensor, Tensor]:
    """The darkest value that counts, and how much brighter the brightest is: of each image, or of the window."""
    low, high = _extreme(images, "amin"), _extreme(images, "amax")
    if not isinstance(intensity, str):
        low, high = (torch.full_like(low, value) for value in intensity)
    return low, (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def _extreme(images: Tensor, which: Literal["amin", "amax"]) -> Tensor:
    """Darkest or brightest pixel of each image, in the shape that broadcasts."""
    return getattr(images, which)(dim=tuple(range(1, images.ndim)), keepdim=True)
