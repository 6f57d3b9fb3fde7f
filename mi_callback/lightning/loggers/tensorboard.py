"""TensorBoard: distribution, tables as text, curves as a picture, and bands on the page "custom scalars"."""

import re
from typing import Any

import numpy as np

from mi_callback.lightning.loggers.curves import draw_curves
from mi_callback.lightning.loggers.looks import Shown, untested
from mi_callback.lightning.loggers.names import Names
from mi_callback.lightning.loggers.tables import GROUPS, flagged_table, group_rows, markdown_table

BANDS = {
    "MI of samples and of real images not trained on": ("mi_median", "mi_p95", "null_mi_p05", "null_mi_p95"),
    "flagged samples and those to expect": ("flagged", "flagged_expected"),
}
"""Which scalars are drawn together."""


def log_look(writer: Any, shown: Shown) -> None:
    """What one validation gives to see.

    TensorBoard reads the first layout that a run wrote, so whoever comes first draws those of all callbacks.
    """
    scores, step, looks, names = shown.scores, shown.step, shown.looks, shown.names
    writer.add_histogram(names.media("mi"), scores.mi.numpy(), step)
    writer.add_text(names.media("flagged"), markdown_table(*flagged_table(scores, shown.subjects)), step)
    if shown.pairs is not None:
        writer.add_images(names.media("closest"), shown.pairs.clamp(0, 1), step)
    if not looks:
        return
    if len([look for look in looks if look.scored]) == 1:
        writer.add_custom_scalars({one.base: _charts(one) for one in shown.all_names or [names]})
    figure = draw_curves(looks)
    figure.canvas.draw()
    # Lines of a run that are drawn together all have its colour.
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    writer.add_image(names.media("curves"), pixels, step, dataformats="HWC")
    missing = [f"not tested: {checks}"] if (checks := untested(scores)) else []
    notes = [*scores.doubts, *scores.notes, *missing]
    writer.add_text(names.media("notes"), "\n".join(f"- {each}" for each in notes), step)
    if looks[-1].groups:
        writer.add_text(names.media("by_condition"), markdown_table(GROUPS, group_rows(looks[-1], scores)), step)


def _charts(names: Names) -> dict[str, Any]:
    band = ["Margin", [names.scalar(key) for key in ("mi_median", "mi_p05", "mi_p95")]]
    lines = {title: ["Multiline", [rf"^{re.escape(names.base)}/({'|'.join(keys)})$"]] for title, keys in BANDS.items()}
    return {"MI of samples, 5 % to 95 %": band, **lines}
