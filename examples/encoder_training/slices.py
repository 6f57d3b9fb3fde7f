"""Slices of folders in memory, and the batches that are drawn from them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mi_callback.encoders.bundled import SIZE
from mi_callback.images.files import SliceFolder
from mi_callback.images.preprocessing import check_images, preprocess
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails

PAIRS = 64
"""Slices of a step, each in two versions."""

RUN = 4
"""Slices of one subject that enter a batch together."""


@dataclass
class Slices:
    """Slices of one folder in memory: uint8 (n, side, side), subject by subject and in slice order."""

    name: str
    images: Tensor
    subjects: list[str]


def load(argument: str) -> Slices:
    """The slices of a folder, or of the volumes of `folder:axis`, as the encoder sees them."""
    return _load(argument, lambda image: preprocess(image, (SIZE, SIZE))[:, 0].mul(255).round().to(torch.uint8))


def load_thumbnails(argument: str) -> Slices:
    """The same as thumbnails, which the descriptor sees."""
    return _load(argument, lambda image: make_thumbnails(image, THUMBNAIL_SIDE[2]))


def _load(argument: str, see: Callable[[Tensor], Tensor]) -> Slices:
    root, _, axis = argument.rpartition(":") if argument[-2:-1] == ":" else (argument, "", "2")
    folder = SliceFolder(root, axis=int(axis))
    if folder.subjects is None:
        raise SystemExit(f"{root}: the subject of some slices is unknown; add a manifest.csv (file, subject).")
    order = sorted(range(len(folder)), key=lambda i: (folder.slices[i].subject, str(folder.slices[i].path)))
    order = [i for i in order if _in_the_middle(folder, i)]
    images = [see(check_images(folder[i]["image"][None])) for i in tqdm(order, desc=argument, leave=False)]
    return Slices(argument, torch.cat(images), [folder.slices[i].subject for i in order])


def _in_the_middle(folder: SliceFolder, i: int) -> bool:
    """Of a volume, every third slice of the middle half: the rest is empty or redundant."""
    piece = folder.slices[i]
    if piece.position is None:
        return True
    depth = sum(s.path == piece.path for s in folder.slices[max(0, i - 400) : i + 400])
    return depth / 4 <= piece.position < 3 * depth / 4 and piece.position % 3 == 0


def keep(folder: Slices, mask: Tensor) -> Slices:
    """Those slices where the mask is true."""
    subjects = [subject for subject, kept in zip(folder.subjects, mask.tolist(), strict=True) if kept]
    return Slices(folder.name, folder.images[mask], subjects)


def draw(folders: list[Slices], generator: torch.Generator) -> Tensor:
    """PAIRS slices in runs of RUN consecutive slices, so that neighbours and siblings are among the negatives.

    A batch comes from at most two folders: telling a spine from a brain teaches nothing.
    """
    sizes = torch.tensor([len(folder.images) for folder in folders], dtype=torch.float)
    chosen = torch.multinomial(sizes.sqrt(), min(2, len(folders)), generator=generator).tolist()
    runs = PAIRS // RUN // len(chosen)
    picked = []
    for k in chosen:
        # Without repetition: the same slice twice would be its own negative.
        starts = torch.randperm(max(1, len(folders[k].images) // RUN), generator=generator)[:runs] * RUN
        places = (starts[:, None] + torch.arange(RUN)).flatten().clamp_max(len(folders[k].images) - 1).unique()
        picked.append(folders[k].images[places])
    return torch.cat(picked)[:, None].float() / 255


def short_name(folder: str) -> str:
    """The last two parts of a path."""
    return "/".join(Path(folder).parts[-2:])
