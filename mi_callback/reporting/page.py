"""A figure on which things are placed in inches."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND, EMPTY, TEXT, QUIET = "#16181c", "#2a2e35", "#f2f2f2", "#a9b0ba"
"""Colours of the page, of places without pixels, of text, and of text that is read second."""

_DPI = 100


class Page:
    """A figure on which things are placed in inches from the upper left corner: what is measured does not overlap.

    Attributes:
        width, height: Of the page, in inches.
        figure: The matplotlib figure.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # A fraction of a pixel would show as a seam at the edge.
        self.width, self.height = (round(length * _DPI) / _DPI for length in (width, height))
        self.figure = Figure((self.width, self.height), dpi=_DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Empty axes in this box."""
        box = left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height
        axes = self.figure.add_axes(box)
        axes.set(xticks=[], yticks=[], facecolor=EMPTY)
        axes.spines[:].set_visible(False)
        return axes

    def text(self, left: float, baseline: float, text: str, size: float, line: float = 0.2, **style: Any) -> None:
        """Lines of text from the baseline of the first one, `line` inches apart; `style` as matplotlib takes it."""
        for k, words in enumerate(text.split("\n")):
            # Ids and file names may hold dollar signs: they are no formulas.
            x, y = left / self.width, 1 - (baseline + k * line) / self.height
            self.figure.text(x, y, words, **{"fontsize": size, "color": TEXT, "parse_math": False, **style})

    def colour_bar(self, picture: Any, left: float, top: float, width: float, ticks: dict[float, str]) -> None:
        """The scale of a picture, with labels at these values."""
        axes = self.axes(left, top, width, 0.1)
        bar = self.figure.colorbar(picture, cax=axes, orientation="horizontal")
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
        bar.ax.tick_params(labelsize=9, labelcolor=QUIET, color=QUIET, length=3, pad=2)
        bar.ax.minorticks_off()
        # The outer labels stay below the bar.
        bar.ax.get_xticklabels()[0].set_horizontalalignment("left")
        bar.ax.get_xticklabels()[-1].set_horizontalalignment("right")
        bar.outline.set_visible(False)  # type: ignore[operator]
