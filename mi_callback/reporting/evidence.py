"""What one flag rests on, as numbers and sentences."""

import math
from dataclasses import dataclass, field

from mi_callback.reporting.geometry import Change
from mi_callback.reporting.pictures import Pictures
from mi_callback.reporting.tables import shortened
from mi_callback.statistics.null import Null


@dataclass(frozen=True)
class Measured:
    """How alike the two images of a flag are.

    Attributes:
        verified: LNCC after alignment, larger is closer; where verification is off, measured for this picture alone.
        copied_fraction: Share of the structure of the generated image that agrees beyond what 95 % of novel images
            show, in [0, 1]; NaN where verification is off.
        copied_from: LNCC from which a place is shown as a copy's: where that share stands out most.
        similarity: Aggregated feature similarity, larger is closer.
        mi: Memorization Index.
        p_value: How often a novel real image is at least this similar.
        decides: Which similarity the flag rests on: `verified` or `similarity`.
    """

    verified: float
    copied_fraction: float
    copied_from: float
    similarity: float
    mi: float
    p_value: float
    decides: str


@dataclass(frozen=True)
class NovelReach:
    """How similar real images that were not trained on are to the training set.

    Attributes:
        kind: How the null was made.
        median, maximum: Of the deciding similarity.
        people: Number of people (images, where subjects are unknown).
        subjects_known: Whether they are known.
    """

    kind: str
    median: float
    maximum: float
    people: int
    subjects_known: bool

    @classmethod
    def of(cls, null: Null) -> "NovelReach":
        """What the images of a null reach."""
        similarity = null.similarity
        known = null.subjects is not None
        return cls(str(null.kind), float(similarity.median()), float(similarity.max()), null.n_subjects, known)

    @property
    def sentence(self) -> str:
        """Whose images they are and what they reach, in plain language, without an end."""
        return f"{self._whose} {self._how} reach {self.median:.2f} in the median and {self.maximum:.2f} at most"

    @property
    def _whose(self) -> str:
        own = "real" if self.kind == "held_out" else "training"
        if self.subjects_known:
            return f"{own.capitalize()} images of {self.people} people"
        return f"{self.people} {own} images"

    @property
    def _how(self) -> str:
        others = "other people" if self.subjects_known else "each other"
        known = {"held_out": "that were not trained on", "cross_fit": f"that were compared with {others}"}
        return known.get(self.kind, "that were split in halves and compared")


@dataclass(frozen=True)
class Evidence:
    """What one flag is proved with. Patient data.

    Attributes:
        row: Position among the generated images.
        match: Row of the training set.
        subject: Its subject, or None where unknown.
        source, match_source: Files of the generated and of the training image, or None where unknown.
        change: What was done to the training image.
        measured: How alike the two are.
        novel: How alike images are that were not trained on.
        pictures: Both images, their difference and their local correlation.
    """

    row: int
    match: int
    subject: str | None = field(repr=False)  # ids: not for logs
    source: str | None = field(repr=False)
    match_source: str | None = field(repr=False)
    change: Change
    measured: Measured
    novel: NovelReach
    pictures: Pictures = field(repr=False)

    @property
    def of_volume(self) -> bool:
        """Whether the two are volumes."""
        return len(self.change.geometry.zoom) == 3

    @property
    def headline(self) -> str:
        """Which image is flagged as a copy of which."""
        whose = f" (subject {shortened(self.subject)})" if self.subject is not None else ""
        return f"Generated image {self.row} is flagged as a copy of training image {self.match}{whose}"

    @property
    def sentence(self) -> str:
        """What was measured, in plain language."""
        *first, last = self.change.steps or ["as it is"]
        done = f"{', '.join(first)}{', then ' if first else ''}{last}"
        return (
            f"{done[0].upper()}{done[1:]}, training image {self.match} agrees with generated image {self.row} (local "
            f"correlation, LNCC, {self.measured.verified:.2f} of 1 where they agree best){self._share}. "
            f"{self._decided}{self.novel.sentence}; {self._chance}."
        )

    @property
    def caption(self) -> str:
        """The numbers on one line."""
        measured = self.measured
        known = not math.isnan(measured.copied_fraction)
        share = f"{measured.copied_fraction * 100:.0f} % of structure copied, " if known else ""
        return f"LNCC {measured.verified:.2f}, {share}p = {measured.p_value:.2g}"

    @property
    def _share(self) -> str:
        share = self.measured.copied_fraction
        if math.isnan(share):
            return ""
        return f"; {share * 100:.0f} % of the structure agrees beyond what 95 % of novel images show"

    @property
    def _decided(self) -> str:
        if self.measured.decides == "verified":
            return ""
        return f"The feature similarity, which decides here, is {self.measured.similarity:.2f}. "

    @property
    def _chance(self) -> str:
        unsure = " (against this null not calibrated)" if self.novel.kind == "train_halves" else ""
        p_value = f"{self.measured.p_value:.2g}"
        return f"a novel image comes this close with a probability of at most {p_value}{unsure}"
