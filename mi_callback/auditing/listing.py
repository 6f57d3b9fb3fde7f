"""The catalogue of encoders as a table of text."""

from collections.abc import Sequence

import torch

from mi_callback.encoders.listing import RESTRICTED, Listed
from mi_callback.reporting.tables import text_table


def listing_table(rows: Sequence[Listed]) -> str:
    """The entries as a table, with what its marks mean."""
    header = ("name", "takes", "trained on", "licence of the weights", "needs", "parameters", "speed here")
    cells = [
        (
            row.name,
            "images" if row.entry.dims == 2 else "volumes",
            row.entry.card.modality,
            row.licence,
            row.error or row.entry.needs or "nothing",
            row.size,
            row.speed,
        )
        for row in rows
    ]
    threads = torch.get_num_threads()
    notes = [
        f"{RESTRICTED} the licence excludes some uses (commercial ones, say) or asks for an agreement first: read it.",
        "Licences are those of the weights, set by their authors. Nothing was downloaded.",
        f"Parameters and speed (CPU, {threads} thread{'s' * (threads != 1)}) of those that need no file.",
    ]
    return "\n".join([text_table(header, cells, (14, 7, 24, 24, 44, 15, 14)), "", *notes])
