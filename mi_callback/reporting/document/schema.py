"""The JSON schema of reports, which is shipped with the package."""

import json
from importlib.resources import files
from typing import Any

SCHEMA_NAME = "mi_callback/report/1"
"""Name and version: the number grows when a part changes its meaning or goes."""


def report_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of `report.json`."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("report.schema.json").read_text(encoding="utf-8"))
    return schema
