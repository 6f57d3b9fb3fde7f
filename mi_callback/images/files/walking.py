"""What a folder holds: files that are read, what litters it, and what is left out and said."""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from mi_callback.images.files.kinds import kind_of

LITTER = ("__MACOSX", "@eaDir", "Thumbs.db")
"""What systems leave behind; as what begins with a dot."""

BESIDE = (".csv", ".tsv", ".json", ".txt", ".md", ".html", ".xml", ".yaml", ".yml", ".bval", ".bvec", ".pdf", ".log",
          ".jsonl", ".py", ".part", ".sh")  # fmt: skip
"""Endings of files that stand beside images and are none."""


def find_files(root: Path, kinds: Collection[str]) -> list[Path]:
    """Files of these kinds below a folder, linked folders included, by name.

    What looks like data and is not read is said in one warning. Pictures that an audit wrote are left out: they are no
    data, and show training images.
    """
    found, others = [], []
    for path in _walk(root):
        if not path.exists():
            others.append("link that leads nowhere")
        elif kind_of(path) in kinds:
            found.append(path)
        elif kind_of(path) is None and not path.name.lower().endswith(BESIDE):
            others.append("".join(path.suffixes[-2:]).lower() or "file without an ending")
    if found and others:
        counts = ", ".join(f"{count} × {what}" for what, count in Counter(others).most_common(5))
        warnings.warn(
            f"{len(others)} files below {root} are not read ({counts}): they are no part of what is judged.",
            stacklevel=4,
        )
    return sorted(found)


def _walk(root: Path) -> Iterator[Path]:
    """Every file below a folder; links are followed, each folder once."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (Path(folder) != root and _is_evidence(Path(folder))):
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not _is_litter(name))
        yield from (Path(folder) / name for name in files if not _is_litter(name))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _is_evidence(folder: Path) -> bool:
    """Whether an audit drew its evidence here."""
    return folder.name == "evidence" and (folder / "gallery.png").is_file() and (folder.parent / "scores.csv").is_file()
