"""Formulas as MathML, which browsers draw themselves: no script, no font and no request leaves the page."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def mathml(latex: str, display: bool) -> str:
    """`latex` as a MathML element.

    Raises:
        SyntaxError: If docutils cannot read it.
    """
    converted = latex2mathml.tex2mathml(latex, as_block=display)
    # Docutils writes a line for each element; within a sentence that would be blanks.
    return re.sub(r">\s+<", "><", converted).strip()


def visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(_converted(node, display=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block">{_converted(node, display=True)}</div>\n')
    raise nodes.SkipNode


def _converted(node: nodes.Element, display: bool) -> str:
    try:
        return mathml(node.astext(), display)
    except (SyntaxError, KeyError) as error:
        LOGGER.warning("formula cannot be converted (%s): %s", error, node.astext(), location=node)
        return f"<code>{node.astext()}</code>"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
