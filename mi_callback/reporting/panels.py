"""The five panels in which one flag is shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.filters import box_mean
from mi_callback.registration.config import registration_config
from mi_callback.reporting.evidence import Evidence
from mi_callback.reporting.page import BACKGROUND, EMPTY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIFFERENCE = 0.5
"""Difference, as a share of the grey scale, at which its colours end: the same in all pictures, to compare them."""


class Panel(NamedTuple):
    """A title and what draws the picture under it; `ticks` gives the labels of its scale, where it has one."""

    title: str
    draw: Callable[["Axes", Evidence], Any]
    ticks: Callable[[Evidence], dict[float, str]] | None = None

    def show(self, axes: "Axes", evidence: Evidence) -> Any:
        """Draw it, and of a volume lines between its planes; returns what matplotlib makes a colour bar for."""
        picture = self.draw(axes, evidence)
        if evidence.of_volume:
            middle = len(evidence.pictures.generated) / 2 - 0.5
            for draw_line in (axes.axhline, axes.axvline):
                draw_line(middle, color=BACKGROUND, linewidth=3)
        return picture


def structure_weight(image: Float[Tensor, "side side"], planes: int = 1) -> Float[Tensor, "side side"]:
    """How much each neighbourhood counts for the LNCC, in [0, 1].

    Args:
        image: In [0, 1].
        planes: Along a side of the image, each on its own: 2 for the middle planes of a volume.
    """
    apart = image.nan_to_num().unflatten(1, (planes, -1)).unflatten(0, (planes, -1)).transpose(1, 2)
    config = registration_config(2 if planes == 1 else 3).local_correlation
    mean, square = box_mean(torch.stack([apart, apart.square()]), config.window)
    found = ((square - mean.square()).clamp_min(0).sqrt() / config.full_structure).clamp_max(1)
    return found.transpose(1, 2).reshape(image.shape)


def _grey(axes: "Axes", image: Tensor) -> Any:
    from matplotlib import colormaps

    grey: Any = colormaps["gray"].with_extremes(bad=EMPTY)
    return axes.imshow(image.numpy(), cmap=grey, vmin=0, vmax=1, interpolation="bicubic")


def _difference(axes: "Axes", evidence: Evidence) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    # Dark in the middle: what is equal stays quiet on a dark page.
    shades = ["#a8dcff", "#2f83d6", "#0c0d0f", "#d9602a", "#ffd9a0"]
    colours = LinearSegmentedColormap.from_list("difference", shades).with_extremes(bad=EMPTY)
    shown = evidence.pictures.difference.numpy()
    return axes.imshow(shown, cmap=colours, vmin=-DIFFERENCE, vmax=DIFFERENCE, interpolation="bicubic")


def _correlation(axes: "Axes", evidence: Evidence) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    # One half of the colours for what novel images reach, and a jump to amber at what copies do.
    places = [(0, "#1d2a44"), (0.25, "#2b5590"), (0.4999, "#8fbfea"), (0.5, "#ff7a00"), (1, "#ffd45c")]
    colours = LinearSegmentedColormap.from_list("correlation", places).with_extremes(bad=EMPTY)
    pictures = evidence.pictures
    _grey(axes, 0.45 * pictures.generated)
    # Colour where structure counts: the correlation of noise says nothing.
    structure = structure_weight(pictures.generated, 2 if evidence.of_volume else 1)
    shown = ((structure - 0.15) / 0.1).clamp(0, 0.92)
    alpha = torch.where(pictures.lncc_map.isnan(), 1.0, shown).numpy()
    scale = TwoSlopeNorm(vmin=0, vcenter=_jump(evidence), vmax=1)
    return axes.imshow(pictures.lncc_map.numpy(), cmap=colours, norm=scale, alpha=alpha, interpolation="nearest")


def _jump(evidence: Evidence) -> float:
    """Where the colours of the local correlation jump; where nothing stands out, next to 1."""
    return min(evidence.measured.copied_from, 0.999)


def _correlation_ticks(evidence: Evidence) -> dict[float, str]:
    jump = _jump(evidence)
    return {0: "0", jump: f"{jump:.3g}", (1 + jump) / 2: "as in copies", 1: "1"}


def _difference_ticks(_: Evidence) -> dict[float, str]:
    return {-DIFFERENCE: f"−{DIFFERENCE * 100:.0f} %", 0: "equal", DIFFERENCE: f"+{DIFFERENCE * 100:.0f} %"}


PANELS = (
    Panel("Generated", lambda axes, evidence: _grey(axes, evidence.pictures.generated)),
    Panel("Training image it matches", lambda axes, evidence: _grey(axes, evidence.pictures.reference)),
    Panel("Match aligned", lambda axes, evidence: _grey(axes, evidence.pictures.aligned)),
    Panel("Difference", _difference, _difference_ticks),
    Panel("Local correlation", _correlation, _correlation_ticks),
)
