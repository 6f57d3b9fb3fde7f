"""A report → its page. What stands on it is the report's, word for word and number for number."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mi_callback.reporting.document.plots import draw_plots

if TYPE_CHECKING:
    from markupsafe import Markup

RELEASE = {
    "generator": "Generator",
    "gives": "What is given away",
    "recipients": "Who gets it",
    "terms": "Under which terms",
    "purpose": "What for",
    "responsible": "Responsible",
    "reviewer": "Reviewed by",
    "review_by": "To be reviewed again by",
}
"""Fields of a release as they are headed."""


def render_page(report: Mapping[str, Any]) -> str:
    """The page of a report: one HTML file that loads nothing and runs nothing.

    Args:
        report: As `build_report` makes it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("mi_callback.reporting.document"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    plots = {name: Markup(svg) for name, svg in draw_plots(report).items()}  # matplotlib escapes what it writes
    number = partial(_number, report)
    return environment.get_template("page.html.j2").render(
        report=report, plots=plots, number=number, release_names=RELEASE
    )


def _number(report: Mapping[str, Any], key: str, form: str = "plain") -> "Markup":
    """The number at a place in the report, as people read it; the exact one stands beside it for machines.

    Args:
        report: With the number.
        key: Names and positions with dots between them: `data.train.images`.
        form: How it is written: a name in `_FORMS`.
    """
    from markupsafe import Markup

    value: Any = report
    for name in key.split("."):
        value = value[int(name)] if isinstance(value, list) else value[name]
    if value is None:
        return Markup('<span class="unknown">not measured</span>')
    return Markup('<data value="{}" data-key="{}">{}</data>').format(repr(value), key, _FORMS[form](value))


def _plain(value: float) -> str:
    """At most four significant digits; whole numbers whole."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _percent_up(value: float) -> str:
    """Rounded up: an upper limit may not become smaller."""
    return f"{math.ceil(1000 * value - 1e-9) / 10:.1f} %"


def _percent_down(value: float) -> str:
    return f"{math.floor(1000 * value + 1e-9) / 10:.1f} %"


_FORMS = {"plain": _plain, "percent": _percent, "percent_up": _percent_up, "percent_down": _percent_down}
