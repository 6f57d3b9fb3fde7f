"""Curves that a person understands: MI as a band beside that of the null, and flags beside those to expect."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mi_callback.lightning.loggers.looks import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, NULL, FLAGS = "#c2410c", "#64748b", "#b91c1c"
"""Colours of samples, of the null, and of flags."""


def draw_curves(looks: Sequence[Look]) -> "Figure":
    """Two panels over the training step: MI (median, and 5 % to 95 %) on the band of the null; flagged beside expected.

    Validations that were not scored are marked on the axis; a gap in a curve would read as nothing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8, 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    scored = [look for look in looks if look.scored]
    missed = [look.step for look in looks if not look.scored]
    _draw_mi(above, scored)
    _draw_flags(below, scored)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.plot(
            missed, [0.02] * len(missed), "x", color="black", transform=axes.get_xaxis_transform(),
            label="not scored" if missed else None,
        )  # fmt: skip
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="upper left")
    below.set_xlabel("training step")
    return figure


def _draw_mi(axes: Any, looks: Sequence[Look]) -> None:
    steps, low, median, high, null_low, null_high = _columns(
        looks, "mi_p05", "mi_median", "mi_p95", "null_mi_p05", "null_mi_p95"
    )
    mark = "o" if len(steps) < 30 else None
    axes.fill_between(
        steps, null_low, null_high, color=NULL, alpha=0.25, lw=0, label="real images not trained on, 90 %"
    )
    axes.fill_between(steps, low, high, color=SAMPLES, alpha=0.25, lw=0, label="samples, 90 %")
    axes.plot(steps, median, color=SAMPLES, marker=mark, ms=4, label="samples, median")
    axes.set_ylabel("Memorization Index")
    axes.set_title("Above the grey band, samples are closer to training images than other people are", fontsize=10)


def _draw_flags(axes: Any, looks: Sequence[Look]) -> None:
    counted = [look for look in looks if "flagged" in look.summary]
    if not counted:
        axes.text(0.5, 0.5, "nothing can be flagged: too few held-out people", transform=axes.transAxes, ha="center")
    steps, flagged, expected = _columns(counted, "flagged", "flagged_expected")
    mark = "o" if len(steps) < 30 else None
    if counted:
        axes.plot(steps, flagged, color=FLAGS, marker=mark, ms=4, label="flagged")
        axes.plot(steps, expected, color=NULL, ls="--", marker=mark, ms=3, label="expected by chance, at most")
    alarm = next((look.step for look in looks if look.summary.get("alarm")), None)
    if alarm is not None:
        axes.axvline(alarm, color="black", lw=1, ls=":", label="alarm")
    axes.set_ylabel("samples")
    axes.set_ylim(bottom=0)


def _columns(looks: Sequence[Look], *keys: str) -> list[list[float]]:
    return [[float(look.step) for look in looks], *([look.summary[key] for look in looks] for key in keys)]
