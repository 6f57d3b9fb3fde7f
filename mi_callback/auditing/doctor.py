"""Before an audit: what is installed, whose images these are, and what can be shown with so many people."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from mi_callback.arguments import probability
from mi_callback.auditing.reading import FolderReader
from mi_callback.auditing.reports.describing import COMPUTING, versions
from mi_callback.errors import OptionError
from mi_callback.images.files import SliceFolder
from mi_callback.reporting.tables import text_table
from mi_callback.statistics.null import NullKind, smallest_p, subjects_needed
from mi_callback.statistics.rates.planning import Plan, plan

OPTIONAL = {"wandb": "wandb", "faiss": "faiss", "pymilvus": "milvus", "transformers": "hf", "einops": "monai",
            "gdcm": "dicom", "SimpleITK": "itk",
            **dict.fromkeys(("tifffile", "h5py", "zarr", "pyarrow"), "formats")}  # fmt: skip
"""Optional modules and the extra of this package that installs each."""

BOUNDS = (0.1, 0.05, 0.02, 0.01)
"""Shares of copies for which it is said what a certificate takes."""


@dataclass(frozen=True)
class Examination:
    """What there is and what follows from it, as lines to be read.

    Attributes:
        installed: Versions, devices and optional modules.
        data: Images and people of each side, and what is wrong with them; empty where no folders were given.
        possible: Levels and certificates that so many people allow; empty where no folders were given.
    """

    installed: Sequence[str]
    data: Sequence[str]
    possible: Sequence[str]

    def __str__(self) -> str:
        parts = [part for part in (self.installed, self.data, self.possible) if part]
        return "\n\n".join("\n".join(part) for part in parts)


def examine(
    train: str | Path | None = None,
    held_out: str | Path | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Examination:
    """Tell what an audit of these folders could show. Images are counted, not encoded.

    Args:
        train: Folder of the images that the generator learned from.
        held_out: Folder of real images of other subjects.
        alpha: Level at which images shall be flagged.
        power: Share of copies that the detector is expected to find, for the plans of certificates.

    Raises:
        OptionError: If a level is not between 0 and 1, or held-out images come without training images.
        DataError: If a folder cannot be read.
    """
    probability("alpha", alpha)
    probability("power", power)
    if train is None:
        if held_out is not None:
            raise OptionError("needed train=DIR beside held_out=DIR; held_out came alone.")
        return Examination(_installed(), [], [])
    reader = FolderReader()
    sides = {"training": reader.read(train)}
    if held_out is not None:
        sides["held-out"] = reader.read(held_out)
    kind = NullKind.CROSS_FIT if held_out is None else NullKind.HELD_OUT
    people = _people(sides["training" if held_out is None else "held-out"])
    return Examination(_installed(), _data(sides), _possible(people, kind, alpha, power))


def _installed() -> list[str]:
    lines = [", ".join(f"{name} {number}" for name, number in versions(COMPUTING).items())]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"device: {', '.join(gpus) if gpus else f'CPU, {torch.get_num_threads()} threads'}")
    missing = [
        f"{name} (pip install 'mi-callback[{extra}]')" for name, extra in OPTIONAL.items() if not find_spec(name)
    ]
    lines.append(f"optional, not installed: {', '.join(missing) or 'none'}")
    return lines


def _data(sides: dict[str, SliceFolder]) -> list[str]:
    lines = []
    for name, side in sides.items():
        known = side.subjects is not None
        whose = side.subject_rules if known else f"{len(side)} images, and whose they are is not known"
        lines.append(f"{name}: {whose}")
        if not known:
            lines.append(
                "  ! each counts as its own person, which is too optimistic: add a manifest.csv (file, subject)"
            )
    shared = set.intersection(*(set(side.subjects or ()) for side in sides.values())) if len(sides) > 1 else set()
    if shared:
        lines.append(f"  ! {len(shared)} people are on both sides: an audit refuses that")
    if len(sides) == 1:
        lines.append("  ! no held-out people: chance would be estimated from the training people themselves")
    return lines


def _possible(people: int, kind: NullKind, alpha: float, power: float) -> list[str]:
    least, needed = smallest_p(people, kind), subjects_needed(alpha, kind)
    if least <= alpha:
        lines = [f"smallest p-value: {least:.3g}; α = {alpha:g} can be tested"]
    else:
        lines = [f"smallest p-value: {least:.3g}; α = {alpha:g} needs {needed} people: {needed - people} more"]
    header = ("at most so many copies", "samples", "people", "α", "here")
    rows = [_planned(bound, plan(bound, power=power), people) for bound in BOUNDS]
    table = text_table(header, rows, (24, 10, 10, 10, 24), right=(1, 2))
    said = f"what a certificate takes, where copies are found with {power:.0%} and nothing is copied:"
    return [*lines, "", said, table]


def _planned(bound: float, needed: Plan, people: int) -> tuple[str, ...]:
    here = "enough people" if people >= needed.n_subjects else f"{needed.n_subjects - people} people too few"
    return f"{bound:.0%} (95 % confidence)", str(needed.n_samples), str(needed.n_subjects), f"{needed.alpha:.3g}", here


def _people(side: SliceFolder) -> int:
    return len(side) if side.subjects is None else len(set(side.subjects))
