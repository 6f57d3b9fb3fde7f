"""Encoders as tables of text: what there is, and how they rank. Nothing in them is about a person."""

from collections.abc import Sequence

import torch

from mi_callback.auditing.ranked import ALIKE, Found, Ranked
from mi_callback.encoders.listing import RESTRICTED, Listed
from mi_callback.reporting.tables import text_table

_RANKING = ("", "encoder", "power", "95 % interval", "features alone", "right subject", "hardest changes", "fit",
            "score", "licence")  # fmt: skip
_WIDTHS = (3, 32, 5, 13, 8, 7, 30, 7, 7, 24)


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


def ranking_table(rows: Sequence[Ranked]) -> str:
    """The rows of `rank` as a table, with what its columns mean."""
    found = [row.found for row in rows if row.found is not None]
    several = sum(row.alike for row in rows) > 1
    lines = []
    if found:
        cells = [_ranked(place, row, several) for place, row in enumerate(rows, start=1) if row.found is not None]
        table = text_table(_RANKING, cells, _WIDTHS, right=(2, 4, 5, 7, 8))
        lines = [_tried_on(found[0]), "", table, "", *_meaning(rows, several)]
    failed = [f"  {row.encoder}: {row.error}" for row in rows if row.error is not None]
    if failed:
        lines += [*([""] if lines else []), "not ranked:", *failed]
    return "\n".join(lines)


def _ranked(place: int, row: Ranked, several: bool) -> tuple[str, ...]:
    assert row.found is not None
    found, (low, high) = row.found, row.found.interval
    traced = torch.stack([traced.double() for traced in found.power.traced.values()]).mean().item()
    return (
        f"{place}{'=' if row.alike and several else ''}",
        row.encoder,
        f"{found.power.overall:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{found.alone.overall:.0%}",
        f"{traced:.0%}",
        ", ".join(f"{change} {share:.0%}" for change, share in found.hardest()),
        f"{1000 * found.fit_seconds:.0f} ms",
        f"{1000 * found.score_seconds:.0f} ms",
        row.licence + (RESTRICTED if row.restricted else ""),
    )


def _tried_on(found: Found) -> str:
    power, (kind, people, images) = found.power, found.against
    return (
        f"{power.n} of {images} training images copied, each with {len(power.flagged)} changes; "
        f"{kind} null of {people}, p ≤ {power.alpha:g}"
    )


def _meaning(rows: Sequence[Ranked], several: bool) -> list[str]:
    found = [row.found for row in rows if row.found is not None]
    verifying = any(one.verified is not None for one in found)
    how = ", with windows, views and registration, as mi-audit looks." if verifying else ", by features alone."
    lines = [
        f"power: share of the copies flagged{how}",
        "features alone: share flagged by the features of whole images. right subject: share whose match is the "
        "subject copied.",
        "fit, score: time per image.",
    ]
    if several:
        lines.append(
            f"= cannot be told from the strongest at the {ALIKE:.0%} level (paired over the {found[0].power.n} images "
            "planted; more: power=64); among these, features alone decide."
        )
    if any(row.restricted for row in rows):
        lines.append(f"{RESTRICTED} the licence excludes some uses or asks for an agreement first: read it.")
    return lines
