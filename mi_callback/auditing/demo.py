"""Made-up scans of made-up people, a few of them copied, as folders for an audit."""

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mi_callback.arguments import seed_number
from mi_callback.errors import DataError, OutputError

PEOPLE, NOVEL, COPIES, SIDE = 30, 15, 5, 96
"""People on each side, novel samples, copies among the samples, and the side of an image."""


class DemoFolders(NamedTuple):
    """Where the images of each side are."""

    train: Path
    held_out: Path
    generated: Path


def make_demo(out: str | Path, seed: int = 0) -> DemoFolders:
    """Write three folders of made-up images: of `generated`, five of twenty are mirrored and dimmed training images.

    Args:
        out: A folder that is empty or does not exist.
        seed: Other images for another number.

    Raises:
        DataError: If there is anything in the folder.
        OutputError: If it cannot be written.
    """
    root, generator = Path(out), torch.Generator().manual_seed(seed_number("seed", seed))
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"needed an empty folder for the demonstration; there is something at {root}. Name another out=DIR."
        )
    train, held_out, novel = (_scans(n, generator) for n in (PEOPLE, PEOPLE, NOVEL))
    generated = torch.cat([0.8 * train[:COPIES].flip(-1) + 0.1, novel])
    folders = DemoFolders(root / "train", root / "held_out", root / "generated")
    try:
        for number, image in enumerate(torch.cat([train, held_out])):
            folder = folders.train if number < PEOPLE else folders.held_out
            _save(image, folder / f"sub-{number:02}" / "scan.png")
        for number, image in enumerate(generated):
            _save(image, folders.generated / f"{number:02}.png")
    except OSError as error:
        raise OutputError(f"needed to write into {root}; {error.strerror}. Name another out=DIR.") from error
    return folders


def _scans(n: int, generator: torch.Generator) -> Tensor:
    """Images with structure at four scales, in [0, 1]."""
    layers = [
        interpolate(torch.rand(n, 1, side, side, generator=generator), (SIDE, SIDE), mode="bicubic")
        for side in (6, 12, 24, 48)
    ]
    images = torch.stack(layers).sum(dim=0)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low)


def _save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * image[0]).round().clamp(0, 255).to(torch.uint8).numpy()).save(path)
