"""What the power self-test found, in a file: whoever plants the same copies for the same detector again reads it."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mi_callback.errors import OutputError
from mi_callback.fingerprints import content_hash
from mi_callback.private_files import replaced
from mi_callback.statistics.power import Power


def kept_power(path: Path, key: str, measure: Callable[[], Power]) -> Power:
    """What a file holds under this key; else what is measured now, which takes its place there.

    Where the file cannot be written it is measured each time, with a warning.

    Args:
        path: The file; it need not exist.
        key: Hash of all that the result follows from.
        measure: Plants the copies and looks them up.
    """
    if (known := _read(path, key)) is not None:
        return known
    power = measure()
    try:
        with replaced(path, shared=True) as unfinished:
            unfinished.write_text(_written(key, power))
    except OutputError as error:
        warnings.warn(f"what the power self-test found is not kept: {error}", stacklevel=4)
    return power


def _written(key: str, power: Power) -> str:
    content: dict[str, Any] = {
        "key": key,
        "flagged": {change: found.tolist() for change, found in power.flagged.items()},
        "traced": {change: found.tolist() for change, found in power.traced.items()},
        "alpha": power.alpha,
        "rows": list(power.rows),
        "seconds": power.seconds,
    }
    return json.dumps(content | {"checksum": content_hash(content)})


def _read(path: Path, key: str) -> Power | None:
    """None where there is nothing under this key, or it is not as it was written."""
    try:
        content = json.loads(path.read_text())
        if content.pop("checksum") != content_hash(content) or content["key"] != key:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    flagged, traced = (
        {change: torch.tensor(found, dtype=torch.bool) for change, found in content[kind].items()}
        for kind in ("flagged", "traced")
    )
    return Power(flagged, traced, content["alpha"], content["rows"], content["seconds"])
