"""Changed copies of training images, planted to see whether a detector finds them: the power self-test."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import changes_of
from mi_callback.images.preprocessing import check_images
from mi_callback.images.progress import counted
from mi_callback.images.resizing import resize
from mi_callback.statistics.power import Power
from mi_callback.types import Subjects

PLANTED = {2: 64, 3: 16}
"""Training images kept at `fit` for the power self-test, by the number of dimensions: whole volumes are large."""

Find = Callable[[Float[Tensor, "n c *spatial"]], tuple[Bool[Tensor, " n"], Int[Tensor, " n"]]]
"""Images → which are flagged, and the training row that each matches."""


@dataclass(frozen=True)
class Planted:
    """Training images of which copies are planted.

    Attributes:
        images: `(c, h, w)`, or volumes `(c, d, h, w)`, in any intensity range; sizes may differ.
        rows: Their rows in the training set.
        others: Images of other people `(m, 1, *spatial)`, uint8 or in [0, 1], of any size, into which parts of copies
            are pasted; None for no such changes.
    """

    images: Sequence[Tensor]
    rows: Sequence[int]
    others: Tensor | None = None

    @property
    def dims(self) -> int:
        """Spatial dimensions: 2 for images, 3 for volumes."""
        return self.images[0].ndim - 1 if self.images else 2

    @property
    def changes(self) -> list[str]:
        """Names of all changes that these images can undergo."""
        perturbations, pastes = changes_of(self.dims)
        return [*perturbations, *(pastes if self.others is not None else ())]

    def copies(self, change: str, seed: int) -> Iterator[tuple[list[int], Tensor]]:
        """Copies of all images under one change, those of one size at a time, and their positions."""
        perturbations, pastes = changes_of(self.dims)
        generator = torch.Generator().manual_seed(seed)
        for places, batch in self._by_size():
            if change in perturbations:
                yield places, perturbations[change](batch, generator)
            else:
                yield places, pastes[change](batch, self._receivers(batch, generator), generator)

    def _by_size(self) -> Iterator[tuple[list[int], Tensor]]:
        """Images in [0, 1], those of one size at a time, and their positions."""
        for size in {tuple(image.shape) for image in self.images}:
            places = [i for i, image in enumerate(self.images) if tuple(image.shape) == size]
            batch = torch.stack([self.images[i] for i in places])
            yield places, normalise_intensity(check_images(batch, batch.shape[1], self.dims), "quantile")

    def _receivers(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One of the others for each image, drawn at random, in its size."""
        assert self.others is not None
        drawn = self.others[torch.randint(len(self.others), (len(images),), generator=generator)]
        # Only the few drawn ones become floats: the others may be many thumbnails.
        drawn = drawn.float() / 255 if drawn.dtype == torch.uint8 else drawn
        return resize(drawn, images.shape[2:]).expand_as(images)


def measure_power(
    find: Find,
    planted: Planted,
    alpha: float,
    subjects: Subjects | None = None,
    changes: Sequence[str] | None = None,
    seed: int = 0,
    label: str | None = None,
) -> Power:
    """Plant copies of training images, one of each change, and look whether they are found.

    Args:
        find: Looks images up.
        planted: The images that are copied.
        alpha: Level of the flags.
        subjects: Subject of every training row; a match in the right subject counts as traced.
        changes: Names out of `planted.changes`; all of them when None.
        seed: Of noise and warps.
        label: Of the progress bar; None for no bar.

    Raises:
        DataError: For no images, or a change that does not exist.
    """
    known = planted.changes
    changes = known if changes is None else list(changes)
    if unknown := [change for change in changes if change not in known]:
        raise DataError(f"needed changes out of {known}; {unknown} came.")
    if not planted.images or not changes:
        raise DataError(f"needed images and changes to plant; {len(planted.images)} and {len(changes)} came.")

    def traced_to(match: int, row: int) -> bool:
        return match == row or (subjects is not None and subjects[match] == subjects[row])

    began = time.monotonic()
    flagged = {change: torch.zeros(len(planted.images), dtype=torch.bool) for change in changes}
    traced = {change: torch.zeros(len(planted.images), dtype=torch.bool) for change in changes}
    for change in counted(changes, label, "change"):
        for places, copies in planted.copies(change, seed):
            found, match = find(copies)
            sources = [planted.rows[i] for i in places]
            flagged[change][places] = found
            traced[change][places] = torch.tensor(
                [traced_to(*pair) for pair in zip(match.tolist(), sources, strict=True)]
            )
    return Power(flagged, traced, alpha, list(planted.rows), time.monotonic() - began)
