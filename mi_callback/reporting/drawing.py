"""One flag as one picture that a radiologist can judge: the pair, their difference, where they agree."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from mi_callback.reporting.evidence import Evidence
from mi_callback.reporting.page import QUIET, Page
from mi_callback.reporting.panels import PANELS
from mi_callback.reporting.tables import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _MARGIN, _GAP, _TOP = 15.0, 0.3, 0.12, 0.95
_SIDE = (_WIDTH - 2 * _MARGIN - (len(PANELS) - 1) * _GAP) / len(PANELS)
_BELOW = _TOP + _SIDE + 0.8

_OF_PLANES = (
    "Of volumes the middle planes are shown: across the depth upper left, across the height upper right, across the "
    "width lower left. "
)
_HOW_TO_READ = (
    "How to read it: the first three panels share one grey scale. Difference: generated minus aligned image, their "
    "brightness and contrast matched. Local correlation: do small neighbourhoods show the same structure? "
    "Amber: as in copies, more than usual in novel images; blue: less; grey: no structure to compare; slate: outside "
    "the match. A flag is evidence, not proof: look whether fine detail agrees (folds, vessels, lesions)."
)


def draw_evidence(evidence: Evidence) -> "Figure":
    """Five panels side by side, and under them what was measured and how to read it. Patient data.

    Generated image, training image, the latter aligned, their difference, local correlation.
    """
    sentence = textwrap.wrap(evidence.sentence, 170)
    how_to_read = textwrap.wrap((_OF_PLANES if evidence.of_volume else "") + _HOW_TO_READ, 210)
    explained = _BELOW + 0.22 * len(sentence) + 0.12
    page = Page(_WIDTH, explained + 0.18 * len(how_to_read) + 0.1)
    page.text(_MARGIN, 0.4, evidence.headline, 15, fontweight="bold")
    _draw_panels(page, evidence)
    page.text(_MARGIN, _BELOW, "\n".join(sentence), 11.5, line=0.22)
    page.text(_MARGIN, explained, "\n".join(how_to_read), 9.5, line=0.18, color=QUIET)
    return page.figure


def _draw_panels(page: Page, evidence: Evidence) -> None:
    notes = iter(_notes(evidence))
    for k, panel in enumerate(PANELS):
        left = _MARGIN + k * (_SIDE + _GAP)
        page.text(left, _TOP - 0.1, panel.title, 12)
        picture = panel.show(page.axes(left, _TOP, _SIDE, _SIDE), evidence)
        if panel.ticks is None:
            page.text(left, _TOP + _SIDE + 0.22, next(notes), 9, color=QUIET)
        else:
            page.colour_bar(picture, left, _TOP + _SIDE + 0.1, _SIDE, panel.ticks(evidence))


def _notes(evidence: Evidence) -> tuple[str, str, str]:
    """What stands under the images: which they are, and what was done to the match."""
    return (
        _file(evidence.source) or f"image {evidence.row}, as it came",
        _file(evidence.match_source) or f"image {evidence.match}, as it is",
        ", ".join(dict.fromkeys(step.split()[0] for step in evidence.change.steps)) or "as it is",
    )


def _file(source: str | None) -> str | None:
    return None if source is None else shortened(Path(source).name, 36)
