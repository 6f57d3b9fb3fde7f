"""TensorBoard: distribution, tables as text, and bands, on the page "custom scalars"."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mi_callback.lightning.loggers.looks import Look, untested
from mi_callback.lightning.loggers.tables import GROUPS, MEDIA, PREFIX, flagged_table, group_rows, markdown_table
from mi_callback.scores import Scores

LAYOUT = {
    "memorization": {
        "MI of samples, 5 % to 95 %": ["Margin", [f"{PREFIX}{key}" for key in ("mi_median", "mi_p05", "mi_p95")]],
        "MI of samples and of real images not trained on": [
            "Multiline",
            [f"{PREFIX}(mi_median|mi_p95|null_mi_p05|null_mi_p95)$"],
        ],
        "flagged samples and those to expect": ["Multiline", [f"{PREFIX}(flagged|flagged_expected)$"]],
    }
}
"""Which scalars are drawn together."""


def log_look(
    writer: Any, scores: Scores, step: int, subjects: bool, pairs: Tensor | None, looks: Sequence[Look] = ()
) -> None:
    """What one validation gives to see; `looks` are all so far, the last is this one."""
    writer.add_histogram(f"{MEDIA}mi", scores.mi.numpy(), step)
    writer.add_text(f"{MEDIA}flagged", markdown_table(*flagged_table(scores, subjects)), step)
    if pairs is not None:
        writer.add_images(f"{MEDIA}closest", pairs.clamp(0, 1), step)
    if not looks:
        return
    if len([look for look in looks if look.scored]) == 1:
        writer.add_custom_scalars(LAYOUT)
    missing = [f"not tested: {names}"] if (names := untested(scores)) else []
    notes = [*scores.doubts, *scores.notes, *missing]
    writer.add_text(f"{MEDIA}notes", "\n".join(f"- {each}" for each in notes), step)
    if looks[-1].groups:
        writer.add_text(f"{MEDIA}by_condition", markdown_table(GROUPS, group_rows(looks[-1], scores)), step)
