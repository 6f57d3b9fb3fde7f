"""What a flag rests on, as one picture that a radiologist can judge: the pair, their difference, where they agree."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.contrast.curves import apply_curve, look_alike
from mi_callback.images.filters import box_mean
from mi_callback.images.poses import undo
from mi_callback.registration.copied_fraction import copied_fraction
from mi_callback.registration.local_correlation import STRUCTURE, WINDOW
from mi_callback.registration.schedule import Alignment
from mi_callback.scores import Scores
from mi_callback.statistics.null import Null

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GALLERY = 40
"""Flags in a gallery at most."""

DIFFERENCE = 0.5
"""Difference, as a share of the grey scale, at which its colours end: the same in all pictures, to compare them."""

UNCALIBRATED = 0.9
"""LNCC from which a place is shown as a copy's where no novel images were aligned to compare."""

_DPI = 100
_BACKGROUND, _EMPTY, _TEXT, _QUIET = "#16181c", "#2a2e35", "#f2f2f2", "#a9b0ba"

_UNPOSED = {
    "flip_horizontal": "mirrored left to right",
    "flip_vertical": "mirrored top to bottom",
    "rotation_180": "turned by 180°",
    "rotation_90": "turned by 90° clockwise",
    "rotation_270": "turned by 90° counter-clockwise",
    "transpose": "mirrored along the falling diagonal",
    "anti_transpose": "mirrored along the rising diagonal",
    "flip_depth": "mirrored along the depth",
    "flip_depth_horizontal": "mirrored along the depth and left to right",
    "flip_depth_vertical": "mirrored along the depth and top to bottom",
    "flip_all": "mirrored along every axis",
}
"""Pose in which a match was found → what takes the training image to the generated one: the way back."""

_AXES = ("width", "height", "depth")
_WAYS = (("to the right", "to the left"), ("down", "up"), ("to later slices", "to earlier slices"))

_PLANES = (
    "Of volumes the middle planes are shown: across the depth upper left, across the height upper right, across the "
    "width lower left. "
)
_HOW_TO_READ = (
    "How to read it: the first three panels share one grey scale. Difference: generated minus aligned image, their "
    "brightness and contrast matched. Local correlation: do small neighbourhoods show the same structure? "
    "Amber: as in copies, more than usual in novel images; blue: less; grey: no structure to compare; slate: outside "
    "the match. A flag is evidence, not proof: look whether fine detail agrees (folds, vessels, lesions)."
)


@dataclass(frozen=True)
class Geometry:
    """What takes a training image to the place where it lies in the posed generated image: y = turn(zoom(x)) + shift.

    What a smooth warp adds to it is not told.

    Attributes:
        rotation: Degrees about the centre of the image, clockwise, in (−180, 180]; of a volume about some axis, ≥ 0.
        zoom: Magnification along the width, the height and, of a volume, the depth; 1.1 is larger by a tenth.
        shift: Of the centre of the image, to the right, down and, of a volume, to deeper slices, in % of the side.
    """

    rotation: float
    zoom: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def of(cls, theta: Tensor) -> "Geometry":
        """Geometry of the map `(dims, dims + 1)` from generated to reference coordinates, as `affine_grid` takes it."""
        theta = theta.detach().cpu().double()
        dims = len(theta)
        # The map looks pixels up; what it does to the training image is its inverse.
        forward = torch.linalg.pinv(theta[:, :dims])
        shift = -forward @ theta[:, dims] * 100 / 2  # coordinates run from −1 to 1: the side is 2
        # The rotation nearest to a matrix, as in its polar decomposition.
        if dims == 2:
            angle = torch.atan2(forward[1, 0] - forward[0, 1], forward[0, 0] + forward[1, 1])
        else:
            left, _, right = torch.linalg.svd(forward)
            angle = (((left @ right).trace() - 1) / 2).clamp(-1, 1).acos()
        return cls(float(angle.rad2deg()), tuple(forward.norm(dim=0).tolist()), tuple(shift.tolist()))

    @property
    def mean_zoom(self) -> float:
        """Geometric mean over the axes."""
        return math.prod(self.zoom) ** (1 / len(self.zoom))

    def words(self) -> list[str]:
        """What was done, step by step; steps too small to see (0.5°, 1 %) are left out."""
        steps = []
        if max(self.zoom) - min(self.zoom) > 0.03 * self.mean_zoom:
            along = [f"{zoom:.2f} times in {axis}" for zoom, axis in zip(self.zoom, _AXES, strict=False)]
            steps.append(f"zoomed {_listed(along)}")
        elif abs(self.mean_zoom - 1) >= 0.01:
            steps.append(f"zoomed {self.mean_zoom:.2f} times")
        if abs(self.rotation) >= 0.5:
            clockwise = f" {'' if self.rotation > 0 else 'counter-'}clockwise" if len(self.zoom) == 2 else ""
            steps.append(f"turned by {abs(self.rotation):.1f}°{clockwise}")
        moves = [
            f"{abs(share):.0f} % {way[share < 0]}"
            for share, way in zip(self.shift, _WAYS, strict=False)
            if abs(share) >= 1
        ]
        return [*steps, f"moved by {_listed(moves)}"] if moves else steps


@dataclass(frozen=True)
class Evidence:
    """What one flag is proved with. Patient data.

    Attributes:
        row: Position among the generated images.
        match: Row of the training set.
        subject: Its subject, or None where unknown.
        source, match_source: Files of the generated and of the training image, or None where unknown.
        pose: Pose of the generated image in which the match was found.
        geometry: What was done to the training image before that pose was undone.
        recoloured: Whether it was compared under another contrast curve (see `recolouring`), and is shown so.
        verified: LNCC after alignment; where verification is off, measured for this picture alone.
        copied_fraction: Share of the structure of the generated image that agrees beyond what 95 % of novel images
            show, in [0, 1]; NaN where verification is off.
        copied_from: LNCC from which a place is shown as a copy's: where that share stands out most.
        similarity: Aggregated feature similarity.
        mi: Memorization Index.
        p_value: How often a novel real image is at least this similar.
        decides: Which similarity the flag rests on: `verified` or `similarity`.
        null_kind: How the null was made.
        null_median, null_max: Median and maximum of the deciding similarity among novel real images.
        null_people: Number of people (images, where subjects are unknown) in the null.
        subjects_known: Whether the subjects of the null are known.
        generated: The generated image as it came, `(side, side)` in [0, 1]; of a volume its three middle planes, as
            `planes` shows them, here and below.
        reference: The training image as it is, `(side, side)` in [0, 1].
        aligned: The training image in the frame of `generated`, `(side, side)` in [0, 1]; NaN where it has no pixels.
        difference: `generated` minus `aligned` with the gain and offset that make it smallest; NaN as there.
        lncc_map: Local correlation in the frame of `generated`, `(side, side)`; NaN where a neighbourhood reaches
            beyond the training image, and next to that where there is nothing to compare.
    """

    row: int
    match: int
    subject: str | None = field(repr=False)  # ids: not for logs
    source: str | None = field(repr=False)
    match_source: str | None = field(repr=False)
    pose: str
    geometry: Geometry
    recoloured: bool
    verified: float
    copied_fraction: float
    copied_from: float
    similarity: float
    mi: float
    p_value: float
    decides: str
    null_kind: str
    null_median: float
    null_max: float
    null_people: int
    subjects_known: bool
    generated: Tensor = field(repr=False)
    reference: Tensor = field(repr=False)
    aligned: Tensor = field(repr=False)
    difference: Tensor = field(repr=False)
    lncc_map: Tensor = field(repr=False)

    @property
    def steps(self) -> list[str]:
        """What takes the training image to what it is in the generated one, as it came; in this order."""
        recoloured = ["recoloured (grey values through the curve that fits best)"] if self.recoloured else []
        return [*recoloured, *self.geometry.words(), *([_UNPOSED[self.pose]] if self.pose in _UNPOSED else [])]

    @property
    def headline(self) -> str:
        return f"Generated image {self.row} is flagged as a copy of training image {self.match}{self._whose}"

    @property
    def sentence(self) -> str:
        """What was measured, in plain language."""
        *first, last = self.steps or ["as it is"]
        done = f"{', '.join(first)}{', then ' if first else ''}{last}"
        return (
            f"{done[0].upper()}{done[1:]}, training image {self.match} agrees with generated image {self.row} (local "
            f"correlation, LNCC, {self.verified:.2f} of 1 where they agree best){self._share}. {self._novel}"
        )

    @property
    def caption(self) -> str:
        """The numbers on one line."""
        share = "" if math.isnan(self.copied_fraction) else f"{self.copied_fraction * 100:.0f} % of structure copied, "
        return f"LNCC {self.verified:.2f}, {share}{_p(self.p_value)}"

    @property
    def _share(self) -> str:
        if math.isnan(self.copied_fraction):
            return ""
        return f"; {self.copied_fraction * 100:.0f} % of the structure agrees beyond what 95 % of novel images show"

    @property
    def _whose(self) -> str:
        return f" (subject {_short(self.subject)})" if self.subject is not None else ""

    @property
    def _novel(self) -> str:
        n = self.null_people
        own = self.null_kind == "held_out"
        if self.subjects_known:
            whose = f"{'Real' if own else 'Training'} images of {n} people"
        else:
            whose = f"{n} {'real' if own else 'training'} images"
        how = {
            "held_out": "that were not trained on",
            "cross_fit": f"that were compared with {'other people' if self.subjects_known else 'each other'}",
        }.get(self.null_kind, "that were split in halves and compared")
        decided = (
            ""
            if self.decides == "verified"
            else f"The feature similarity, which decides here, is {self.similarity:.2f}. "
        )
        sure = " (against this null not calibrated)" if self.null_kind == "train_halves" else ""
        return (
            f"{decided}{whose} {how} reach {self.null_median:.2f} in the median and {self.null_max:.2f} at most"
            f"; a novel image comes this close with a probability of at most {self.p_value:.2g}{sure}."
        )


def collect(
    scores: Scores,
    rows: Sequence[int],
    generated: Tensor,
    reference: Tensor,
    alignment: Alignment,
    null: Null,
    sources: Sequence[str | None],
    match_sources: Sequence[str | None],
) -> list[Evidence]:
    """Evidence for the images at `rows`, k of them, from their alignment.

    Args:
        scores: Of all generated images.
        rows: Positions among them.
        generated: Thumbnails as they came, uint8 `(k, side, side)`, or those of volumes.
        reference: Thumbnails of their matches, the same.
        alignment: Of the *posed* thumbnails with the references.
        null: Against which they were scored.
        sources, match_sources: File of each generated image and of each match.
    """
    verify = not bool(scores.verified.isnan().all())
    inside = _inside(alignment.theta.cpu(), reference.shape[-1])
    dims = reference.ndim - 1
    window = WINDOW[dims]
    compared = box_mean(inside.float(), window, dims) > 0.99
    # A smooth warp moves some windows at the edge, of the overlap or the image, out of it: the map is 0 there.
    mean_over = F.avg_pool2d if dims == 2 else F.avg_pool3d
    edge = mean_over(compared[:, None].float(), window, stride=1, padding=window // 2)[:, 0] < 0.99
    compared &= ~(edge & (alignment.lncc_map.cpu() == 0))
    shown = reference[:, None].float() / 255
    recoloured = ~look_alike(shown, apply_curve(shown, alignment.curve.cpu()))
    levels = copied_fraction(alignment.shares.double().cpu(), null.usual)[1]
    copied_from, found = levels.nan_to_num(UNCALIBRATED).tolist(), []
    for k, row in enumerate(rows):
        pose = scores.pose[row]
        image = generated[k].float() / 255
        aligned = undo(pose, alignment.aligned[k].cpu().masked_fill(~inside[k], torch.nan))
        lncc_map = undo(pose, alignment.lncc_map[k].cpu().masked_fill(~compared[k], torch.nan))
        found.append(
            Evidence(
                row=row,
                match=int(scores.match[row]),
                subject=scores.match_subject[row],
                source=sources[k],
                match_source=match_sources[k],
                pose=pose,
                geometry=Geometry.of(alignment.theta[k]),
                recoloured=bool(recoloured[k]),
                verified=float(scores.verified[row] if verify else alignment.lncc[k]),
                copied_fraction=float(scores.copied_fraction[row]),
                copied_from=copied_from[k],
                similarity=float(scores.similarity[row]),
                mi=float(scores.mi[row]),
                p_value=float(scores.p_value[row]),
                decides="verified" if verify else "similarity",
                null_kind=null.kind,
                null_median=float(null.similarity.median()),
                null_max=float(null.similarity.max()),
                null_people=null.n_subjects,
                subjects_known=null.subjects is not None,
                generated=planes(image),
                reference=planes(reference[k].float() / 255),
                aligned=planes(aligned),
                difference=planes(difference(image, aligned, lncc_map >= copied_from[k])),
                lncc_map=planes(lncc_map),
            )
        )
    return found


def difference(generated: Tensor, aligned: Tensor, copied: Tensor | None = None) -> Tensor:
    """`generated` − (a · `aligned` + b), with the a and b that make it smallest; NaN where `aligned` is.

    Smallest where `copied`, bool, says so, if that is anywhere: of a part of a copy, nothing remains there.
    """
    there = ~aligned.isnan()
    if not there.any():
        return torch.full_like(generated, torch.nan)
    if copied is not None and (there & copied).any():
        there = there & copied
    ours, theirs = generated[there].double(), aligned[there].double()
    centred = theirs - theirs.mean()
    # An empty training image explains nothing: gain 0, not infinity.
    gain = float((centred * ours).sum() / centred.square().sum().clamp_min(1e-9))
    return generated - (gain * aligned + float(ours.mean() - gain * theirs.mean()))


def planes(image: Tensor) -> Tensor:
    """An image as it is; of a volume `(s, s, s)` the middle planes across depth, height and width, `(2 s, 2 s)`.

    Across the depth upper left, across the height upper right, across the width lower left; NaN lower right. The first
    of its axes that are left runs down.
    """
    if image.ndim == 2:
        return image
    across_depth, across_height, across_width = (image.select(axis, image.shape[axis] // 2) for axis in range(3))
    nothing = torch.full_like(across_depth, torch.nan)
    return torch.cat([torch.cat([across_depth, across_height], 1), torch.cat([across_width, nothing], 1)])


def _inside(theta: Tensor, side: int) -> Tensor:
    """Where the maps `(k, dims, dims + 1)` stay inside the reference, bool `(k, side, side)`."""
    grid = F.affine_grid(theta.float(), [len(theta), 1, *(side,) * theta.shape[1]], align_corners=False)
    return grid.abs().amax(dim=-1) <= 1


# Pictures ------------------------------------------------------------------------------------------------------------


def draw(evidence: Evidence) -> "Figure":
    """Five panels side by side, and under them what was measured and how to read it.

    Generated image, training image, the latter aligned, their difference, local correlation. Patient data.
    """
    explanation = (_PLANES if _of_volume(evidence) else "") + _HOW_TO_READ
    sentence, how_to_read = textwrap.wrap(evidence.sentence, 170), textwrap.wrap(explanation, 210)
    width, margin, gap, top = 15.0, 0.3, 0.12, 0.95
    side = (width - 2 * margin - 4 * gap) / 5
    below = top + side + 0.8
    explained = below + 0.22 * len(sentence) + 0.12
    page = _Page(width, explained + 0.18 * len(how_to_read) + 0.1)
    page.text(margin, 0.4, evidence.headline, 15, weight="bold")
    steps = evidence.steps
    panels: tuple[tuple[str, str | dict[float, str]], ...] = (
        ("Generated", _file(evidence.source) or f"image {evidence.row}, as it came"),
        ("Training image it matches", _file(evidence.match_source) or f"image {evidence.match}, as it is"),
        ("Match aligned", ", ".join(dict.fromkeys(step.split()[0] for step in steps)) or "as it is"),
        (
            "Difference",
            {-DIFFERENCE: f"−{DIFFERENCE * 100:.0f} %", 0: "equal", DIFFERENCE: f"+{DIFFERENCE * 100:.0f} %"},
        ),
        ("Local correlation", _ticks(evidence)),
    )
    for k, ((title, note), show) in enumerate(zip(panels, _PANELS, strict=True)):
        left = margin + k * (side + gap)
        page.text(left, top - 0.1, title, 12)
        picture = _show(show, page.axes(left, top, side, side), evidence)
        if isinstance(note, str):
            page.text(left, top + side + 0.22, note, 9, colour=_QUIET)
        else:
            page.colour_bar(picture, left, top + side + 0.1, side, note)
    page.text(margin, below, "\n".join(sentence), 11.5, line=0.22)
    page.text(margin, explained, "\n".join(how_to_read), 9.5, colour=_QUIET, line=0.18)
    return page.figure


def draw_gallery(evidence: Sequence[Evidence], left_out: int = 0) -> "Figure":
    """The first `GALLERY` flags on one page, in two columns: generated, match aligned, difference, local correlation.

    Args:
        evidence: Most certain first.
        left_out: Flags that are not in `evidence`: the page says how many it does not show.
    """
    shown = evidence[:GALLERY]
    hidden = len(evidence) - len(shown) + left_out
    columns = min(2, len(shown))
    side, gap, margin, between, top = 1.55, 0.06, 0.3, 0.4, 1.05
    entry = 4 * side + 3 * gap
    pitch = side + 0.78
    lines = -(-len(shown) // columns)
    page = _Page(2 * margin + columns * entry + (columns - 1) * between, top + lines * pitch)
    count = f"{len(shown)} flagged image{'s' * (len(shown) != 1)}, most certain first"
    page.text(margin, 0.4, f"{count}; {hidden} more not shown" if hidden else count, 15, weight="bold")
    page.text(
        margin, 0.7, "Generated, match aligned, difference, local correlation (amber: as in a copy)", 10, colour=_QUIET
    )
    for k, one in enumerate(shown):
        left, line = margin + k % columns * (entry + between), top + k // columns * pitch
        whose = f"training image {one.match}" + (f" ({_short(one.subject, 30)})" if one.subject is not None else "")
        page.text(left, line + 0.12, f"Generated image {one.row}, {whose}", 10.5)
        page.text(left, line + 0.31, one.caption, 9.5, colour=_QUIET)
        for j, show in enumerate((_PANELS[0], *_PANELS[2:])):
            _show(show, page.axes(left + j * (side + gap), line + 0.41, side, side), one)
    return page.figure


def write(evidence: Sequence[Evidence], folder: str | Path, left_out: int = 0) -> list[Path]:
    """`evidence_0017.png` for the flag of generated image 17, and `gallery.png` with all of them. Patient data.

    Files of these names that an earlier run left in the folder are removed first: they would pass for evidence of this
    one. Without evidence nothing else happens.

    Args:
        evidence: Most certain first.
        folder: Made where it does not exist.
        left_out: Flags that are not in `evidence`; the gallery says so.

    Returns:
        The files, the gallery last.
    """
    folder = Path(folder)
    for old in [*folder.glob("evidence_*.png"), *folder.glob("gallery.png")]:
        old.unlink()
    if not evidence:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"evidence_{one.row:04}.png" for one in evidence]
    for file, one in zip(files, evidence, strict=True):
        draw(one).savefig(file)
    draw_gallery(evidence, left_out).savefig(folder / "gallery.png")
    return [*files, folder / "gallery.png"]


class _Page:
    """A figure on which things are placed in inches from the upper left corner: what is measured does not overlap."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # A fraction of a pixel would show as a seam at the edge.
        self.width, self.height = (round(length * _DPI) / _DPI for length in (width, height))
        self.figure = Figure((self.width, self.height), dpi=_DPI, facecolor=_BACKGROUND)
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        box = left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height
        axes = self.figure.add_axes(box)
        axes.set(xticks=[], yticks=[], facecolor=_EMPTY)
        axes.spines[:].set_visible(False)
        return axes

    def text(
        self,
        left: float,
        baseline: float,
        text: str,
        size: float,
        colour: str = _TEXT,
        weight: str = "normal",
        line: float = 0.2,
    ) -> None:
        """Lines of text from the baseline of the first one, `line` inches apart."""
        for k, words in enumerate(text.split("\n")):
            # Ids and file names may hold dollar signs: they are no formulas.
            x, y = left / self.width, 1 - (baseline + k * line) / self.height
            self.figure.text(x, y, words, fontsize=size, color=colour, fontweight=weight, parse_math=False)

    def colour_bar(self, picture: Any, left: float, top: float, width: float, ticks: dict[float, str]) -> None:
        axes = self.axes(left, top, width, 0.1)
        bar = self.figure.colorbar(picture, cax=axes, orientation="horizontal")
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
        bar.ax.tick_params(labelsize=9, labelcolor=_QUIET, color=_QUIET, length=3, pad=2)
        bar.ax.minorticks_off()
        # The outer labels stay below the bar.
        bar.ax.get_xticklabels()[0].set_horizontalalignment("left")
        bar.ax.get_xticklabels()[-1].set_horizontalalignment("right")
        bar.outline.set_visible(False)  # type: ignore[operator]


def _middle(evidence: Evidence) -> float:
    """Where the colours of the local correlation jump; where nothing stands out, next to 1."""
    return min(evidence.copied_from, 0.999)


def _ticks(evidence: Evidence) -> dict[float, str]:
    middle = _middle(evidence)
    return {0: "0", middle: f"{middle:.3g}", (1 + middle) / 2: "as in copies", 1: "1"}


def _of_volume(evidence: Evidence) -> bool:
    return len(evidence.geometry.zoom) == 3


def _show(panel: Callable[["Axes", Evidence], Any], axes: "Axes", evidence: Evidence) -> Any:
    """A panel, and of a volume a line between its planes."""
    picture = panel(axes, evidence)
    if _of_volume(evidence):
        middle = len(evidence.generated) / 2 - 0.5
        for draw_line in (axes.axhline, axes.axvline):
            draw_line(middle, color=_BACKGROUND, linewidth=3)
    return picture


def _show_grey(axes: "Axes", image: Tensor) -> Any:
    from matplotlib import colormaps

    grey: Any = colormaps["gray"].with_extremes(bad=_EMPTY)
    return axes.imshow(image.numpy(), cmap=grey, vmin=0, vmax=1, interpolation="bicubic")


def _show_difference(axes: "Axes", evidence: Evidence) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    # Dark in the middle: what is equal stays quiet on a dark page.
    shades = ["#a8dcff", "#2f83d6", "#0c0d0f", "#d9602a", "#ffd9a0"]
    colours = LinearSegmentedColormap.from_list("difference", shades).with_extremes(bad=_EMPTY)
    return axes.imshow(
        evidence.difference.numpy(), cmap=colours, vmin=-DIFFERENCE, vmax=DIFFERENCE, interpolation="bicubic"
    )


def _show_correlation(axes: "Axes", evidence: Evidence) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    # One half of the colours for what novel images reach, and a jump to amber at what copies do.
    places = [(0, "#1d2a44"), (0.25, "#2b5590"), (0.4999, "#8fbfea"), (0.5, "#ff7a00"), (1, "#ffd45c")]
    colours = LinearSegmentedColormap.from_list("correlation", places).with_extremes(bad=_EMPTY)
    _show_grey(axes, 0.45 * evidence.generated)
    # Colour where structure counts: the correlation of noise says nothing.
    structure = _structure(evidence.generated, 2 if _of_volume(evidence) else 1)
    shown = ((structure - 0.15) / 0.1).clamp(0, 0.92)
    alpha = torch.where(evidence.lncc_map.isnan(), 1.0, shown)
    scale = TwoSlopeNorm(vmin=0, vcenter=_middle(evidence), vmax=1)
    return axes.imshow(
        evidence.lncc_map.numpy(), cmap=colours, norm=scale, alpha=alpha.numpy(), interpolation="nearest"
    )


def _structure(image: Tensor, planes: int = 1) -> Tensor:
    """How much each neighbourhood of `(s, s)` counts for the LNCC, in [0, 1]; planes along a side are on their own."""
    apart = image.nan_to_num().unflatten(1, (planes, -1)).unflatten(0, (planes, -1)).transpose(1, 2)
    mean, square = box_mean(torch.stack([apart, apart.square()]), WINDOW[2 if planes == 1 else 3])
    found = ((square - mean.square()).clamp_min(0).sqrt() / STRUCTURE).clamp_max(1)
    return found.transpose(1, 2).reshape(image.shape)


_PANELS = (
    lambda axes, evidence: _show_grey(axes, evidence.generated),
    lambda axes, evidence: _show_grey(axes, evidence.reference),
    lambda axes, evidence: _show_grey(axes, evidence.aligned),
    _show_difference,
    _show_correlation,
)


def _file(source: str | None) -> str | None:
    return None if source is None else _short(Path(source).name, 36)


def _short(text: str, most: int = 40) -> str:
    """At most `most` characters, the middle left out: both ends of an id tell people apart."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[len(text) - most // 2 :]}"


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _p(value: float) -> str:
    return f"p = {value:.2g}"
