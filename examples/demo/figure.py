"""One picture of the runs: MI by epoch, flagged by epoch beside the expected count, and the closest pairs."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from mi_callback.callback import Record

NOVEL, FLAGGED, INK, MUTED = "#7a8ca3", "#d1495b", "#22303f", "#8a8f98"
PAIRS = 6


@dataclass(frozen=True)
class Watched:
    """What a run leaves for the picture.

    Attributes:
        history: Epoch, step and scores of each validation.
        slices, subjects: Of the training set.
        pairs: The closest pairs of the last validation, `(pairs, 2, h, w)`.
    """

    history: list[Record]
    slices: int
    subjects: int
    pairs: torch.Tensor


def draw(runs: dict[str, Watched], path: Path) -> Path:
    """One column per run; returns `path`."""
    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    figure = plt.figure(figsize=(5.2 * len(runs), 8.6), layout="constrained")
    rows = figure.add_gridspec(3, len(runs), height_ratios=[1.25, 0.8, 1.15])
    shared_mi = shared_count = None
    for column, (name, watched) in enumerate(runs.items()):
        shared_mi = mi_by_epoch(figure.add_subplot(rows[0, column], sharey=shared_mi), name, watched)
        shared_count = flagged_by_epoch(figure.add_subplot(rows[1, column], sharey=shared_count), watched)
        closest_pairs(figure.add_subfigure(rows[2, column]), watched)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def mi_by_epoch(axes: Axes, name: str, watched: Watched) -> Axes:
    generator = torch.Generator().manual_seed(0)
    axes.axhspan(-2, 2, color=NOVEL, alpha=0.12, lw=0)
    for epoch, _, scores in watched.history:
        jitter = (torch.rand(len(scores), generator=generator) - 0.5) * 0.5
        for mask, colour in ((~scores.flagged, NOVEL), (scores.flagged, FLAGGED)):
            axes.scatter(epoch + jitter[mask], scores.mi[mask], s=7, color=colour, alpha=0.7, lw=0)
    epochs = [record.epoch for record in watched.history]
    axes.plot(epochs, [float(record.scores.mi.median()) for record in watched.history], color=INK, lw=1.5)
    axes.set_title(
        f"{name}: {watched.slices} training slices of {watched.subjects} subjects", loc="left", fontweight="bold"
    )
    axes.set_ylabel("Memorization Index (MI)")
    axes.annotate(
        "line: median; band: novel images, ±2 σ₀; red: flagged",
        (0.01, 0.98),
        xycoords="axes fraction",
        va="top",
        fontsize=7.5,
        color=MUTED,
    )
    axes.margins(y=0.12)
    axes.set_xticks(epochs)
    return axes


def flagged_by_epoch(axes: Axes, watched: Watched) -> Axes:
    epochs = [record.epoch for record in watched.history]
    axes.bar(epochs, [record.scores.flagging.count for record in watched.history], width=0.6, color=FLAGGED)
    expected = watched.history[-1].scores.flagging.expected
    axes.axhline(expected, color=INK, lw=1, ls="--")
    axes.annotate(
        f"dashed: at most {expected:.1f} expected by chance",
        (0.01, 0.98),
        xycoords="axes fraction",
        va="top",
        fontsize=7.5,
        color=MUTED,
    )
    axes.margins(y=0.15)
    axes.set_ylabel(f"flagged of {len(watched.history[-1].scores)}")
    axes.set_xlabel("epoch")
    axes.set_xticks(epochs)
    return axes


def closest_pairs(figure, watched: Watched) -> None:
    scores = watched.history[-1].scores
    pairs, worst = watched.pairs, scores.closest(PAIRS)
    figure.suptitle("last epoch, closest pairs: generated | training slice, aligned", x=0.02, ha="left", fontsize=9)
    grid = figure.subplots(2, PAIRS // 2)
    for axes, pair, i in zip(grid.flat, pairs, worst, strict=True):
        axes.imshow(pair[0], cmap="gray", vmin=0, vmax=1)
        flagged = bool(scores.flagged[i])
        axes.set_title(
            f"MI {scores.mi[i]:.1f}, LNCC {scores.verified[i]:.2f}{', flagged' if flagged else ''}",
            fontsize=7.5,
            color=FLAGGED if flagged else INK,
        )
        axes.set_axis_off()
