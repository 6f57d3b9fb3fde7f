"""What the measuring programs of this folder leave: a page, and figures of one panel a set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_T = TypeVar("_T")


def write_page(folder: Path, page: str) -> None:
    """RESULTS.md in a folder, and on the screen."""
    (folder / "RESULTS.md").write_text(page)
    print(page)


def panels(
    sets: Mapping[str, _T], one: Callable[[Axes, _T], None], size: tuple[float, float], label: str, path: Path
) -> None:
    """A panel a set, drawn by `one`, and one legend below; `size` is that of a panel, in inches."""
    canvas = Figure(figsize=(size[0] * len(sets) + 1.6, size[1] + 0.8), layout="constrained")
    every = canvas.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, (name, results) in zip(every, sets.items(), strict=True):
        one(axes, results)
        axes.set_title(name)
        axes.set_xlabel(label, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    canvas.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    canvas.savefig(path, dpi=110)
