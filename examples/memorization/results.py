"""What the runs say, in numbers: samples are copies, novel or undecided by the truth, and flagged or not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

COPY = {"whole": 0.93, "upper": 0.96, "lower": 0.96}
"""Correlation of structure from which a sample is a copy, by part: what the coarsest autoencoder here leaves of an
image, and for halves as far beyond those of held-out images, which reach .93 where whole ones reach .88."""


@dataclass(frozen=True)
class Sample:
    """One sample of a look.

    Attributes:
        truth: "copy", as a whole or by a half; "novel" (neither the whole nor a half is closer to a training image than
            that of the closest held-out slice); or "undecided".
        correlation: Of the whole with its closest training image; larger is closer.
        flagged, mi: By the detector.
        match, closest: Rows of the training images that the detector and the registration found.
        bears: Row of the training image whose mark it bears; None without one.
    """

    truth: str
    correlation: float
    flagged: bool
    mi: float
    match: int
    closest: int
    bears: int | None

    @property
    def decided(self) -> bool:
        return self.truth != "undecided"

    @property
    def agrees(self) -> bool:
        return self.flagged == (self.truth == "copy")


class Run:
    """One family on one training set."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept, self.looks = kept, kept["looks"]
        self.novel_up_to = {part: min(max(values), COPY[part]) for part, values in kept["null"].items()}
        self.images, self.drawn_from = kept["sizes"]

    def samples(self, look: int) -> Iterator[Sample]:
        one = self.looks[look]
        columns = ("flagged", "mi", "match", "closest", "marked")
        for place, values in enumerate(zip(*(one[column] for column in columns), strict=True)):
            parts = {part: values[place] for part, values in one["correlation"].items()}
            yield Sample(self._truth(parts), parts["whole"], *values)

    def every(self) -> list[Sample]:
        """Of all looks."""
        return [sample for look in range(len(self.looks)) for sample in self.samples(look)]

    def share(self, look: int, which: Callable[[Sample], bool]) -> float:
        some = list(self.samples(look))
        return sum(map(which, some)) / len(some)

    def logged(self, look: int, name: str) -> float:
        return float(self.looks[look].get(name, float("nan")))

    def mi(self, look: int) -> float:
        return median(self.looks[look]["mi"])

    def first(self, name: str, beyond: float) -> int | None:
        """The first look at which a logged value is beyond a limit."""
        return next((look for look in range(len(self.looks)) if self.logged(look, name) > beyond), None)

    def _truth(self, parts: dict[str, float]) -> str:
        if any(value >= COPY[part] for part, value in parts.items()):
            return "copy"
        return "novel" if all(value <= self.novel_up_to[part] for part, value in parts.items()) else "undecided"
