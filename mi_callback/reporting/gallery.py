"""Many flags on one page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mi_callback.reporting.evidence import Evidence
from mi_callback.reporting.page import QUIET, Page
from mi_callback.reporting.panels import PANELS
from mi_callback.reporting.tables import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GALLERY = 40
"""Flags in a gallery at most."""

_SHOWN = (PANELS[0], *PANELS[2:])
_SIDE, _GAP, _MARGIN, _BETWEEN, _TOP = 1.55, 0.06, 0.3, 0.4, 1.05
_ENTRY = len(_SHOWN) * _SIDE + (len(_SHOWN) - 1) * _GAP
_PITCH = _SIDE + 0.78


def draw_gallery(evidence: Sequence[Evidence], left_out: int = 0, most: int = GALLERY) -> "Figure":
    """The first flags on one page, in two columns: generated, match aligned, difference, local correlation.

    Args:
        evidence: Most certain first; at least one.
        left_out: Flags that are not in `evidence`: the page says how many it does not show.
        most: Flags on the page at most.
    """
    shown = evidence[:most]
    hidden = len(evidence) - len(shown) + left_out
    columns = min(2, len(shown))
    page = Page(2 * _MARGIN + columns * _ENTRY + (columns - 1) * _BETWEEN, _TOP + -(-len(shown) // columns) * _PITCH)
    count = f"{len(shown)} flagged image{'s' * (len(shown) != 1)}, most certain first"
    page.text(_MARGIN, 0.4, f"{count}; {hidden} more not shown" if hidden else count, 15, fontweight="bold")
    explanation = "Generated, match aligned, difference, local correlation (amber: as in a copy)"
    page.text(_MARGIN, 0.7, explanation, 10, color=QUIET)
    for k, one in enumerate(shown):
        _draw_entry(page, one, _MARGIN + k % columns * (_ENTRY + _BETWEEN), _TOP + k // columns * _PITCH)
    return page.figure


def _draw_entry(page: Page, evidence: Evidence, left: float, top: float) -> None:
    whose = f" ({shortened(evidence.subject, 30)})" if evidence.subject is not None else ""
    page.text(left, top + 0.12, f"Generated image {evidence.row}, training image {evidence.match}{whose}", 10.5)
    page.text(left, top + 0.31, evidence.caption, 9.5, color=QUIET)
    for k, panel in enumerate(_SHOWN):
        panel.show(page.axes(left + k * (_SIDE + _GAP), top + 0.41, _SIDE, _SIDE), evidence)
