"""Would a copy be found? What a detector found of changed copies that were planted among its samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mi_callback.statistics.rates.clopper_pearson import clopper_pearson

ENOUGH = 0.5
"""Share of planted copies that a detector must find for its "clean" to mean anything."""


@dataclass(frozen=True)
class Power:
    """Copies of n training images, every one changed in every way.

    Attributes:
        flagged: `{change: (n,)}` bool: was the copy flagged?
        traced: `{change: (n,)}` bool: was its source, or another image of its subject, named as the match?
        alpha: Level of the flags.
        rows: Training row of each image planted.
        seconds: How long looking all copies up took; None where nobody took the time.
    """

    flagged: Mapping[str, Tensor]
    traced: Mapping[str, Tensor]
    alpha: float
    rows: Sequence[int] = ()
    seconds: float | None = field(default=None, compare=False)

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
