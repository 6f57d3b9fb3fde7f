"""Would a copy be found? Changed copies of training images, planted among the samples of the user's own detector."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import changes_of
from mi_callback.images.preprocessing import check_images
from mi_callback.images.resizing import resize
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson

ENOUGH = 0.5
"""Share of planted copies that a detector must find for its "clean" to mean anything."""

Find = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images `(n, c, h, w)` → flagged, bool `(n,)`, and the training row that each matches, `(n,)`."""


@dataclass(frozen=True)
class Power:
    """Copies of n training images, every one changed in every way.

    Attributes:
        flagged: `{change: (n,)}` bool: was the copy flagged?
        traced: `{change: (n,)}` bool: was its source, or another image of its subject, named as the match?
        alpha: Level of the flags.
        rows: Training row of each image planted.
    """

    flagged: Mapping[str, Tensor]
    traced: Mapping[str, Tensor]
    alpha: float
    rows: Sequence[int] = ()

    @property
    def n(self) -> int:
        """Number of images planted, each once per change."""
        return len(next(iter(self.flagged.values())))

    @property
    def overall(self) -> float:
        """Share of all planted copies that were flagged, in [0, 1]."""
        return self._per_image().mean().item()

    @property
    def counts(self) -> tuple[int, int]:
        """Images found and images planted; an image counts by the share of its copies found, the sum rounded down.

        The copies of one image are not independent: the image is the unit for an interval.
        """
        return math.floor(self._per_image().sum().item() + 1e-9), self.n

    @property
    def sees_copies(self) -> bool:
        """Whether at least `ENOUGH` of all copies were flagged, and of the unchanged ones if these were planted."""
        return min(self.overall, self.share("exact") if "exact" in self.flagged else 1.0) >= ENOUGH

    @property
    def missed(self) -> list[str]:
        """Changes of which fewer than `ENOUGH` copies were flagged."""
        return [change for change in self.flagged if self.share(change) < ENOUGH]

    def share(self, change: str) -> float:
        """Share of copies so changed that were flagged."""
        return self.flagged[change].double().mean().item()

    def interval(self, change: str, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper-Pearson interval of `share`."""
        return clopper_pearson(int(self.flagged[change].sum()), self.n, confidence)

    def table(self) -> list[tuple[str, float, float, float, float]]:
        """A row per change: name, share flagged, its 95 % limits, share traced to the right subject."""
        return [
            (change, self.share(change), *self.interval(change), self.traced[change].double().mean().item())
            for change in self.flagged
        ]

    def __str__(self) -> str:
        lines = [
            f"{'copies changed by':18} flagged  95 % interval  right subject   ({self.n} images, p ≤ {self.alpha:g})"
        ]
        lines += [
            f"{change:18} {share:7.0%}  {f'{lower:.0%} to {upper:.0%}':13}  {traced:13.0%}"
            for change, share, lower, upper, traced in self.table()
        ]
        return "\n".join([*lines, f"{'all':18} {self.overall:7.0%}"])

    def _per_image(self) -> Tensor:
        return torch.stack([flagged.double() for flagged in self.flagged.values()]).mean(dim=0)


def measure(
    find: Find,
    images: Sequence[Tensor],
    rows: Sequence[int],
    alpha: float,
    subjects: Sequence[str] | None = None,
    changes: Sequence[str] | None = None,
    seed: int = 0,
    others: Tensor | None = None,
) -> Power:
    """Plant copies of training images, one of each change, and look whether they are found.

    Args:
        find: Looks images up.
        images: Training images `(c, h, w)`, or volumes `(c, d, h, w)`, in any intensity range; sizes may differ.
        rows: Their rows in the training set.
        alpha: Level of the flags.
        subjects: Subject of every training row; a match in the right subject counts as traced.
        changes: Names out of `perturbations.changes_of`, pastes where there are others; all of them when None.
        seed: Of noise and warps.
        others: Images of other people `(m, 1, *spatial)`, uint8 or in [0, 1], of any size, into which parts of copies
            are pasted.

    Raises:
        DataError: For no images, or a change that does not exist.
    """
    dims = images[0].ndim - 1 if images else 2
    perturbations, pastes = changes_of(dims)
    known = [*perturbations, *(pastes if others is not None else ())]
    changes = known if changes is None else list(changes)
    if unknown := [change for change in changes if change not in known]:
        raise DataError(f"needed changes out of {known}; {unknown} came.")
    if not images or not changes:
        raise DataError(f"needed images and changes to plant; {len(images)} and {len(changes)} came.")

    def same(match: int, row: int) -> bool:
        return match == row or (subjects is not None and subjects[match] == subjects[row])

    flagged: dict[str, Tensor] = {}
    traced: dict[str, Tensor] = {}
    batches = []
    for size in {tuple(image.shape) for image in images}:
        places = [i for i, image in enumerate(images) if tuple(image.shape) == size]
        batch = torch.stack([images[i] for i in places])
        batches.append((places, normalise_intensity(check_images(batch, batch.shape[1], dims), "quantile")))
    for change in changes:
        flagged[change], traced[change] = (torch.zeros(len(images), dtype=torch.bool) for _ in range(2))
        generator = torch.Generator().manual_seed(seed)
        for places, batch in batches:
            if change in perturbations:
                planted = perturbations[change](batch, generator)
            else:
                assert others is not None
                planted = pastes[change](batch, _receivers(others, batch, generator), generator)
            found, match = find(planted)
            flagged[change][places] = found
            traced[change][places] = torch.tensor(
                [same(m, rows[i]) for m, i in zip(match.tolist(), places, strict=True)]
            )
    return Power(flagged, traced, alpha, list(rows))


def _receivers(others: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """One of the others for each image, drawn at random, in its size."""
    drawn = others[torch.randint(len(others), (len(images),), generator=generator)]
    # Only the few drawn ones become floats: the others may be many thumbnails.
    drawn = drawn.float() / 255 if drawn.dtype == torch.uint8 else drawn
    return resize(drawn, images.shape[2:]).expand_as(images)
