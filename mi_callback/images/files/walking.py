"""What a folder holds: files that may be images, and what is left out and why."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mi_callback.images.files.accounts import Failure, FileError, LeftOut, Reason
from mi_callback.images.files.archives import Room, list_members
from mi_callback.images.files.kinds import BESIDE, DETACHED, ENDINGS, FileKind, kind_of
from mi_callback.images.files.telling import told_by_name

LITTER = ("__MACOSX", "@eaDir", "#recycle", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information")
"""What systems leave behind; as what begins with a dot."""


FOLDERS = (*ENDINGS[FileKind.ZARR], ".n5")
"""Endings of folders that are one scan."""


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        found: The kind of each file that is to be read, in their natural order.
        left_out: Files and folders that are not tried, by reason.
        failed: What could not be listed, or is known not to be read.
    """

    found: dict[Path, FileKind] = field(default_factory=dict)
    left_out: dict[LeftOut, list[Path]] = field(default_factory=lambda: defaultdict(list))
    failed: list[Failure] = field(default_factory=list)


def find_files(root: Path, kinds: Collection[FileKind]) -> Listing:
    """Files of these kinds below a folder, linked folders and archives included, in their natural order.

    Pictures that an audit wrote are left out: they are no data, and show training images.
    """
    listing = Listing()
    for path in _walk(root, listing):
        _list_file(path, kinds, listing)
    listing.found = dict(sorted(listing.found.items(), key=lambda item: natural_key(item[0])))
    return listing


def natural_key(path: Path) -> list[Any]:
    """By this key `slice2` comes before `slice10`.

    Example:
        >>> sorted([Path("s10"), Path("s9"), Path("s1/b")], key=natural_key) == [Path("s1/b"), Path("s9"), Path("s10")]
        True
    """
    return [(_numbers_apart(part), part) for part in path.parts]


def _numbers_apart(part: str) -> list[str | int]:
    # Numbers are at odd places, so that texts are compared with texts alone.
    return [int(text) if i % 2 else text for i, text in enumerate(re.split("([0-9]+)", part))]


def _list_file(path: Path, kinds: Collection[FileKind], listing: Listing) -> None:
    if os.path.isdir(path):
        _list_kind(path, kind_of(path), kinds, listing)
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device, which may never end
        listing.left_out[LeftOut.UNKNOWN].append(path)
        return
    kind = kind_of(path)
    if os.path.islink(path) and not os.path.exists(path):
        if kind is not None:
            listing.failed.append(
                Failure(path, Reason.NOT_FETCHED, f"needed the file that {path} leads to; it is not there. Fetch it.")
            )
        else:
            listing.left_out[LeftOut.UNKNOWN].append(path)
    elif kind is FileKind.ARCHIVE:
        _list_archive(path, kinds, listing, Room(path))
    else:
        _list_kind(path, kind, kinds, listing)


def _list_kind(path: Path, kind: FileKind | None, kinds: Collection[FileKind], listing: Listing) -> None:
    if kind is None:
        beside = path.name.lower().endswith((*BESIDE, *DETACHED))
        listing.left_out[LeftOut.BESIDE if beside else LeftOut.UNKNOWN].append(path)
    elif kind is FileKind.NOT_READ:
        listing.failed.append(_not_read(path))
    elif kind in kinds:
        listing.found[path] = kind
    else:
        listing.left_out[LeftOut.OTHER_KIND].append(path)


def _list_archive(archive: Path, kinds: Collection[FileKind], listing: Listing, room: Room) -> None:
    try:
        with told_by_name(archive):
            members = list_members(archive, room)
    except FileError as error:
        listing.failed.append(Failure(archive, error.reason, str(error)))
        return
    stores = dict.fromkeys(store for path in members if (store := _store_of(path, archive)) is not None)
    listing.failed += [_not_read(store) for store in stores]
    for path in members:
        if _store_of(path, archive) is not None:
            continue
        kind = kind_of(path)
        if any(_is_litter(part) for part in path.relative_to(archive).parts):
            listing.left_out[LeftOut.SYSTEM].append(path)
        elif kind is FileKind.ARCHIVE:
            _list_archive(path, kinds, listing, room.within(path))
        else:
            _list_kind(path, kind, kinds, listing)


def _store_of(path: Path, archive: Path) -> Path | None:
    """The folder in an archive that is one scan of many files, and that a file belongs to: it has to be unpacked."""
    return next(
        (above for above in path.parents if above.name.lower().endswith(FOLDERS) and archive in above.parents), None
    )


def _walk(root: Path, listing: Listing) -> Iterator[Path]:
    """Every file below a folder; links are followed, each folder once."""
    seen = set()

    def refused(error: OSError) -> None:
        message = f"needed a folder that may be read; {error.filename} may not ({error.strerror})."
        listing.failed.append(Failure(Path(error.filename), Reason.NOT_ALLOWED, message))

    for folder, below, files in os.walk(root, onerror=refused, followlinks=True):
        real = os.path.realpath(folder)
        evidence = Path(folder) != root and _is_evidence(Path(folder))
        if evidence:
            listing.left_out[LeftOut.EVIDENCE] += [Path(folder) / name for name in files]
        if real in seen or evidence:
            below.clear()
            continue
        seen.add(real)
        for name in [name for name in below if name.lower().endswith(FOLDERS)]:
            below.remove(name)
            yield Path(folder) / name
        listing.left_out[LeftOut.SYSTEM] += [Path(folder) / name for name in [*below, *files] if _is_litter(name)]
        below[:] = sorted(name for name in below if not _is_litter(name))
        yield from (Path(folder) / name for name in files if not _is_litter(name))


def _not_read(path: Path) -> Failure:
    return Failure(path, Reason.FORMAT, f"needed a format that is read; {path} is of another. Convert or unpack it.")


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _is_evidence(folder: Path) -> bool:
    """Whether an audit drew its evidence here."""
    return folder.name == "evidence" and (folder / "gallery.png").is_file() and (folder.parent / "scores.csv").is_file()
