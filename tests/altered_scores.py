"""Scores as they would be if other things had been found."""

from dataclasses import replace
from typing import Any

from mi_callback.scores import Scores


def altered(scores: Scores, **found: Any) -> Scores:
    """The same scores with other values: of the images, or of their flags (`p_value`, `flagged`, `group`)."""
    flags = {name: found.pop(name) for name in ("p_value", "flagged", "group") if name in found}
    return replace(scores, images=replace(scores.images, **found), flagging=replace(scores.flagging, **flags))
