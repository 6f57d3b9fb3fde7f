"""Two figures: which copies are told from novel slices, and what measures say of sets with more and more copies."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from common.pages import panels
from matplotlib.axes import Axes
from omegaconf import DictConfig
from paper.results import METHODS, PUBLISHED, SCORES, Results

COLOURS = {"bundled": "tab:orange", "rows": "tab:brown", "ours": "tab:blue"}
MARKS = {"bundled": "s", "rows": "^", "ours": "o"}


def draw(config: DictConfig, found: Mapping[tuple[str, bool], list[dict]], folder: Path) -> None:
    sets = {name: Results(seeds) for (name, coins), seeds in found.items() if not coins}
    panels(sets, aucs, (3.0, 3.6), "AUC of copies against novel slices", folder / "auc.png")
    levels = list(config.levels)
    panels(
        sets, lambda axes, one: responses(axes, one, levels), (3.2, 3.4), "copies in the set, per cent",
        folder / "response.png",
    )  # fmt: skip


def aucs(axes: Axes, one: Results) -> None:
    """Changes from above; .5 is chance."""
    places = range(len(one.changes))
    axes.axvline(0.5, color="0.7", linewidth=1, linestyle=":")
    for method in one.methods:
        values = [mean(one.auc(method, change)) for change in one.changes]
        axes.plot(values, places, MARKS[method], color=COLOURS[method], label=METHODS[method], alpha=0.85)
    known = [PUBLISHED.get(change, float("nan")) for change in one.changes]
    axes.plot(known, places, "D", color="0.3", fillstyle="none", label="published (other data, MRI-CORE)")
    axes.set_yticks(places, one.changes)
    axes.set_xlim(0, 1.04)
    if not axes.yaxis_inverted():  # shared by the panels
        axes.invert_yaxis()


def responses(axes: Axes, one: Results, levels: list[int]) -> None:
    """How far each measure has moved, in standard deviations of clean sets; away from 0 whatever its direction."""
    for method in one.methods:
        moved = [abs(one.steps(method, level)) for level in levels]
        axes.plot(levels, moved, MARKS[method] + "-", color=COLOURS[method], label=f"MI, {METHODS[method]}")
    for measure, title in SCORES.items():
        axes.plot(levels, [abs(one.steps(measure, level)) for level in levels], "--", linewidth=1.2, label=title)
    axes.axhline(2, color="0.7", linewidth=1, linestyle=":")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylabel("moved from 0 %, in SDs of clean sets" if axes.get_subplotspec().is_first_col() else "")
