"""What each encoder found of the same copies, and which of them is strongest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from mi_callback.statistics.power import Power
from mi_callback.statistics.rates.clopper_pearson import Limits, clopper_pearson

ALIKE = 0.05
"""Level at which the power of two encoders is told apart."""


class Against(NamedTuple):
    """What copies were looked for among.

    Attributes:
        kind: Of the null.
        people: In the null.
        images: Training images.
    """

    kind: str
    people: int
    images: int


class Found(NamedTuple):
    """Of the planted copies, and how long it took.

    Attributes:
        alone: Power of the features, each image as a whole, no view turned: what the encoder itself is worth.
        verified: Power of the detector with windows, views and registration; None where these are off.
        fit_seconds: Per training or held-out image, to encode and calibrate.
        score_seconds: Per scored image.
        against: What they were looked for among.
    """

    alone: Power
    verified: Power | None
    fit_seconds: float
    score_seconds: float
    against: Against

    @property
    def power(self) -> Power:
        """That of the detector as it is set: it ranks."""
        return self.verified or self.alone

    @property
    def interval(self) -> Limits:
        """95 % interval of the overall power; the image, not the copy, is the unit. Exact (Clopper-Pearson)."""
        return clopper_pearson(*self.power.counts)

    @property
    def strength(self) -> tuple[float, float]:
        """Overall power, of the detector and of the features alone; larger is better."""
        return self.power.overall, self.alone.overall

    def hardest(self, n: int = 3) -> list[tuple[str, float]]:
        """The n changes of which the fewest copies were found, and their shares; none of which all were."""
        shares = {change: self.power.share(change) for change in self.power.flagged}
        return sorted(((c, share) for c, share in shares.items() if share < 1), key=lambda item: item[1])[:n]

    def is_like(self, best: "Found") -> bool:
        """Whether the shares found of each planted image's copies differ by no more than chance (paired t-test)."""
        difference = best._per_image() - self._per_image()
        if len(difference) < 2 or not difference.any():
            return True
        if float(difference.std()) < 1e-12:
            return False
        return bool(stats.ttest_1samp(difference.numpy(), 0.0).pvalue > ALIKE)

    def _per_image(self) -> Float[Tensor, " n"]:
        return torch.stack([flagged.double() for flagged in self.power.flagged.values()]).mean(dim=0)


@dataclass(frozen=True)
class Ranked:
    """One encoder of a ranking.

    Attributes:
        encoder: What was asked for.
        licence: Of its weights; `restricted` as in `Card`.
        found: What it found; None where it could not be built or run.
        alike: Whether its power cannot be told from that of the strongest (paired over the images planted).
        error: Why nothing was found.
    """

    encoder: str
    licence: str = ""
    restricted: bool = False
    found: Found | None = None
    alike: bool = False
    error: str | None = None


def in_order(rows: Sequence[Ranked]) -> list[Ranked]:
    """Those alike the strongest by their features alone, the others by power, then those with errors."""
    strength = {k: row.found.strength for k, row in enumerate(rows) if row.found is not None}
    if not strength:
        return list(rows)
    best = rows[max(strength, key=strength.__getitem__)].found
    alike = [k for k in strength if _are_alike(rows[k].found, best)]
    behind = [k for k in strength if k not in alike]
    alike.sort(key=lambda k: strength[k][::-1], reverse=True)
    behind.sort(key=strength.__getitem__, reverse=True)
    failed = [row for row in rows if row.found is None]
    return [*(replace(rows[k], alike=True) for k in alike), *(rows[k] for k in behind), *failed]


def _are_alike(one: Found | None, best: Found | None) -> bool:
    return one is not None and best is not None and one.is_like(best)
