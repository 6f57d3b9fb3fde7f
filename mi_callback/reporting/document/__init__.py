"""An audit as a document: one dictionary with all that is said, its schema, its page, and a table of the samples.

`build_report` makes the dictionary, of which `report.json` is the text and `report.html` the picture: no number stands
on the page that is not in it.
"""

from mi_callback.reporting.document.content import build_report
from mi_callback.reporting.document.context import Context, Release, Side
from mi_callback.reporting.document.croissant import croissant
from mi_callback.reporting.document.rendering import render_page
from mi_callback.reporting.document.schema import report_schema
from mi_callback.reporting.document.table import Row, read_table, write_parquet, write_table

__all__ = [
    "Context",
    "Release",
    "Row",
    "Side",
    "build_report",
    "croissant",
    "read_table",
    "render_page",
    "report_schema",
    "write_parquet",
    "write_table",
]
