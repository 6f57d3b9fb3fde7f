"""Plots of a report as SVG that stands in its page: text stays text, and nothing is loaded."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 5.0
"""Inches: at 400 pixels of a phone letters are still read."""

BLUE, RED, GREY, LINE = "#1f5fa8", "#b3261e", "#8a8f98", "#444444"


def draw_plots(report: Mapping[str, Any]) -> dict[str, str]:
    """The plots for which a report has numbers, by name: `distribution`, `rate`, `power`, `subgroups`."""
    plots = {"distribution": _draw("distribution", 3.0, lambda axes: _distribution(axes, report["distribution"]))}
    numbers, power, subgroups = report["numbers"], report["power"], report["subgroups"]
    if "rate_upper" in numbers:
        plots["rate"] = _draw("rate", 1.35, lambda axes: _rate(axes, report))
    if power is not None:
        rows = [(row["change"], row["flagged"], row["lower"], row["upper"]) for row in power["by_change"]]
        plots["power"] = _draw("power", 0.9 + 0.19 * len(rows), lambda axes: _shares(axes, rows, "share found"))
    if subgroups:
        rows = [(row["name"], row["share"], row["lower"], row["upper"]) for row in subgroups]
        plots["subgroups"] = _draw(
            "subgroups", 0.9 + 0.22 * len(rows), lambda axes: _shares(axes, rows, "share flagged")
        )
    return plots


def _draw(name: str, height: float, plot: Any) -> str:
    """One figure as an `svg` element."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Elements of several plots on a page must not have the same ids, and the same report is the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure = Figure((WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9.5)
        plot(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Its size is that of the page; every id gets the name of the plot.
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"|^<svg ', _sized, svg, count=1)
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _sized(found: re.Match[str]) -> str:
    return f'<svg role="presentation" {found[1] or ""}'


def _distribution(axes: "Axes", found: Mapping[str, Any]) -> None:
    edges = found["edges"]
    if found["null"] is not None:
        axes.stairs(found["null"], edges, fill=True, color=GREY, alpha=0.55, label="real, not trained on")
    axes.stairs(found["generated"], edges, color=BLUE, linewidth=1.8, label="generated")
    axes.set_xlabel("Memorization Index (MI)", fontsize=10)
    axes.set_ylabel("share of images", fontsize=10)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylim(bottom=0)
    # Above the axes: within them it would lie on what it explains.
    axes.legend(frameon=False, fontsize=9.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _rate(axes: "Axes", report: Mapping[str, Any]) -> None:
    numbers = report["numbers"]
    lower, upper = 100 * numbers["rate_lower"], 100 * numbers["rate_upper"]
    axes.plot([lower, upper], [0, 0], color=BLUE, linewidth=6, solid_capstyle="butt")
    axes.plot([100 * numbers["rate"]] * 2, [-0.3, 0.3], color=RED, linewidth=2)
    right = min(100.0, max(5.0, 1.25 * upper))
    axes.set(xlim=(0, right), ylim=(-0.6, 0.6), yticks=[])
    axes.spines["left"].set_visible(False)
    for condition in report["gate"]["conditions"]:
        if condition["name"] == "rate_upper" and 100 * condition["limit"] <= right:
            axes.axvline(100 * condition["limit"], color=LINE, linestyle=":", linewidth=1.5)
    axes.set_xlabel("% of samples that are copies", fontsize=10)


def _shares(axes: "Axes", rows: Sequence[tuple[str, float, float, float]], label: str) -> None:
    """A point with its interval for each row, the first on top."""
    for place, (_, share, lower, upper) in enumerate(rows):
        colour = BLUE if share >= 0.5 or label != "share found" else RED
        axes.plot([100 * lower, 100 * upper], [place, place], color=colour, linewidth=2, alpha=0.45)
        axes.plot([100 * share], [place], "o", color=colour, markersize=4.5)
    axes.set_yticks(range(len(rows)), [name if len(name) < 24 else f"{name[:22]}…" for name, *_ in rows],
                    parse_math=False)  # fmt: skip
    axes.set(xlim=(-2, 102), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{label}, %", fontsize=10)
