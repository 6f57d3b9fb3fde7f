"""Two figures: how much is copied by size of the training set, and the detector's index beside the truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.pages import panels
from matplotlib.axes import Axes
from memorization.results import COPY, Run
from omegaconf import DictConfig

COLOURS = {"copy": "tab:red", "undecided": "0.6", "novel": "tab:blue"}


def draw(config: DictConfig, found: Mapping[tuple[str, str], dict[str, Any]], folder: Path) -> None:
    families = [family for family in config.families if any(name == family for name, _ in found)]
    runs = {family: [Run(one) for (name, _), one in found.items() if name == family] for family in families}
    panels(runs, by_size, (3.4, 3.1), "images trained on", folder / "copied.png")
    panels(runs, beside_truth, (3.4, 3.1), "correlation with the closest training image", folder / "truth.png")


def by_size(axes: Axes, runs: list[Run]) -> None:
    """At the last look; sets with repeated images are left out."""
    plain = sorted((run for run in runs if run.images == run.drawn_from), key=lambda run: run.images)
    sizes, last = [run.images for run in plain], -1
    copies = [run.share(last, lambda sample: sample.truth == "copy") for run in plain]
    possible = [run.share(last, lambda sample: sample.truth != "novel") for run in plain]
    rates = [run.looks[last]["rate"] for run in plain]
    axes.fill_between(sizes, copies, possible, color=COLOURS["undecided"], alpha=0.3, lw=0, label="undecided")
    axes.plot(sizes, copies, "s--", color=COLOURS["copy"], label="copies, by registration")
    reach = [[e - low for low, e, _ in rates], [high - e for _, e, high in rates]]
    axes.errorbar(sizes, [rate[1] for rate in rates], reach, fmt="o-", color="tab:blue", label="rate, by the callback",
                  capsize=3)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel("share of samples" if axes.get_subplotspec().is_first_col() else "")


def beside_truth(axes: Axes, runs: list[Run]) -> None:
    """All samples of all looks."""
    samples = [sample for run in runs for sample in run.every()]
    for truth, colour in COLOURS.items():
        for flagged, mark in ((True, "o"), (False, "x")):
            some = [one for one in samples if one.truth == truth and one.flagged == flagged]
            axes.scatter([one.correlation for one in some], [max(one.mi, -6) for one in some], 9, colour, mark, lw=0.8,
                         label=f"{truth}, {'' if flagged else 'not '}flagged")  # fmt: skip
    axes.axvline(COPY["whole"], color="0.7", linewidth=1, linestyle=":")
    axes.set_ylabel("memorization index" if axes.get_subplotspec().is_first_col() else "")
