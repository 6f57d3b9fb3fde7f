"""What a report says beyond the scores, gathered from an audit."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from mi_callback.auditing.reading import Folders
from mi_callback.auditing.reports.contents import Contents
from mi_callback.auditing.reports.writing import Judged
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError
from mi_callback.fingerprints import fingerprint, fingerprint_of_code
from mi_callback.fitting import DECIDING
from mi_callback.images.files import Slice
from mi_callback.reporting.document import Context, Release
from mi_callback.reporting.record import read_log, reviews_of
from mi_callback.scores import Scores
from mi_callback.statistics.gate import GateResult
from mi_callback.statistics.indices import memorization_index
from mi_callback.version import __version__

COMPUTING = ("torch", "numpy", "scipy", "monai", "nibabel", "pydicom", "pillow")
"""Libraries on whose versions numbers may depend."""

ROOMS = (*DECIDING, "statistics")
"""Rooms of this package on whose code numbers depend."""

MOST_SUBGROUPS = 20


def describe(
    fitted: MemorizationDetector,
    folders: Folders,
    judged: Judged,
    out: Path,
    options: Mapping[str, Any],
    gate: GateResult,
    release: Release,
    set_scores: Mapping[str, float],
    subgroups: Sequence[str] | None,
) -> Context:
    """All that a report says beyond the scores.

    Args:
        fitted: The detector that judged.
        folders: What was read.
        judged: What was judged.
        out: Folder of the report, whose log holds earlier decisions.
        options: Of the audit, by name.
        gate: Whether it may be released.
        release: What is to be released.
        set_scores: Set-level scores, by name.
        subgroups: Of each image that was judged, or None.
    """
    sides = {name: getattr(folders, name) for name in ("train", "held_out", "generated", "control")}
    contents = Contents(side for side in sides.values() if side is not None)
    rule = fitted.rule
    settings = {**options, "alpha": rule.alpha, "fdr": rule.fdr, "procedure": str(rule.procedure), **fitted.settings()}
    return Context(
        sides={name: None if side is None else contents.side(side) for name, side in sides.items()},
        keys=contents.keys(judged.generated, judged.matches),
        gate=gate,
        release=release,
        settings=settings,
        versions=versions(COMPUTING),
        fingerprints={"settings": fingerprint(settings), "code": fingerprint_of_code(*ROOMS)},
        null_mi=_null_mi(fitted, judged.scores) if judged.slices.images is judged.scores.images else None,
        set_scores=set_scores,
        subgroups=subgroups,
        files={name: account.counts for name, account in folders.files.items()},
        reviews=reviews_of(read_log(out)),
    )


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of this package, of Python and of these packages where they are installed."""
    found = {"mi_callback": __version__, "python": platform.python_version(),
             "system": f"{platform.system()} {platform.machine()}"}  # fmt: skip
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def subgroups_of(slices: Sequence[Slice], root: Path) -> list[str]:
    """The first folder below `root` that each image is in.

    Raises:
        OptionError: If there are not at least two such folders, more than `MOST_SUBGROUPS`, or images outside of them.
    """
    parts = [piece.path.relative_to(root).parts for piece in slices]
    names = [own[0] for own in parts if len(own) > 1]
    if len(names) < len(parts) or not 2 <= len(set(names)) <= MOST_SUBGROUPS:
        raise OptionError(
            f"needed 2 to {MOST_SUBGROUPS} folders below {root}, one per subgroup, for subgroups=True; "
            f"{len(set(names))} came, and {len(parts) - len(names)} images in none. Sort the images into folders, or "
            "leave it out."
        )
    return names


def _null_mi(fitted: MemorizationDetector, scores: Scores) -> Tensor:
    """MI of the real images that the samples were compared with, on the scale of the samples."""
    return memorization_index((scores.null or fitted.null).similarity, fitted.null)
