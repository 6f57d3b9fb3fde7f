"""What was found, per generated image, and its aggregates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mi_callback.calibration import ROUNDING, NullKind, smallest_p, subjects_needed
from mi_callback.certificates import clopper_pearson
from mi_callback.multiplicity import excess_p_value

Verdict = Literal["clean", "memorized", "inconclusive"]

FAR = -2.0
"""Median MI below which samples are too unlike real images for their novelty to mean much."""

LEVEL = 0.05
"""Probability with which independent novel images are called memorized, at most."""


@dataclass(frozen=True)
class Scores:
    """Result for n generated images; tensors have length n and lie on the CPU.

    Attributes:
        similarity: Aggregated feature similarity to the training set; larger is closer, 1 is identical.
        layer_similarity: The same per encoder layer, `(n, layers)`.
        mi: Memorization Index; about 0 for a novel image, large for a copy.
        oni: Overfit/Novelty Index, bounded, on the detector's scale.
        p_value: How often a novel real image is at least this similar; small means memorized.
        flagged: Whether the image counts as a copy at `alpha` (or under `fdr`).
        match: Row of the training set it resembles most.
        match_subject: Subject of that row, or None where subjects are unknown.
        consensus: How many layers have this row as their own nearest neighbour.
        verified: LNCC with the match after alignment; NaN when verification is off.
        copied_fraction: Share of the image that is locally a copy of the match; NaN when verification is off.
        pose: Pose of the generated image in which the match was found.
        layers: Names of the columns of `layer_similarity`.
        alpha: Level of each flag.
        fdr: False discovery rate of the flags, if they were chosen by Benjamini-Hochberg.
        null_kind: How the null was made.
        null_subjects: Number of subjects G in the null; no p-value is below 1 / (G + 1).
        null_images: Number of images in the null.
        subjects_known: Whether subject ids were given; without them every image counts as its own subject.
    """

    similarity: Tensor
    layer_similarity: Tensor
    mi: Tensor
    oni: Tensor
    p_value: Tensor
    flagged: Tensor
    match: Tensor
    match_subject: Sequence[str | None] = field(repr=False)  # ids: not for logs
    consensus: Tensor
    verified: Tensor
    copied_fraction: Tensor
    pose: Sequence[str]
    layers: Sequence[str]
    alpha: float
    fdr: float | None
    null_kind: NullKind
    null_subjects: int
    null_images: int
    subjects_known: bool

    def __len__(self) -> int:
        return len(self.similarity)

    @property
    def n_flagged(self) -> int:
        return int(self.flagged.sum())

    @property
    def flagged_expected(self) -> float:
        """Number of false flags to expect: at most n α if nothing is a copy. Under Benjamini-Hochberg fdr times the
        count, an estimate; if nothing is a copy, all flags are false.
        """
        return len(self) * self.alpha if self.fdr is None else self.fdr * self.n_flagged

    @property
    def rate(self) -> float:
        """Share of flagged images, false flags included."""
        return self.n_flagged / len(self)

    def rate_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper-Pearson interval of `rate`, for independent images."""
        return clopper_pearson(self.n_flagged, len(self), confidence)

    @property
    def resolvable(self) -> bool:
        """Whether a single copy could be flagged with as few subjects as the null has (under `fdr` true if any is)."""
        found = self.fdr is not None and self.n_flagged > 0
        return found or smallest_p(self.null_subjects, self.null_kind) <= self._level + ROUNDING

    @property
    def _level(self) -> float:
        """The p-value at which a single image is flagged."""
        return self.alpha if self.fdr is None else self.fdr / len(self)

    @property
    def verdict(self) -> Verdict:
        """`memorized`: more flags than independent novel images would get (5 % level; under `fdr`: any flag).
        `inconclusive`: the null is not calibrated (`train_halves`), or it has too few subjects, or there are too few
        images, for any outcome to be called memorized. `clean`: no evidence of memorization, no proof of its absence.
        """
        if self.null_kind == "train_halves" or not self.resolvable or not bool(self.p_value.isfinite().all()):
            return "inconclusive"
        if self.fdr is not None:
            return "memorized" if self.n_flagged else "clean"
        if self._excess(len(self)) > LEVEL:
            return "inconclusive"
        return "memorized" if self._excess(self.n_flagged) <= LEVEL else "clean"

    def _excess(self, flagged: int) -> float:
        several_each = self.null_images > self.null_subjects
        return excess_p_value(flagged, len(self), self.alpha, self.null_subjects, several_each)

    @property
    def matched_subjects(self) -> int:
        """Number of distinct training subjects (images, where subjects are unknown) that flagged images match."""
        rows = self.flagged.nonzero().flatten().tolist()
        if self.subjects_known_in_train:
            return len({self.match_subject[i] for i in rows})
        return len({int(self.match[i]) for i in rows})

    @property
    def subjects_known_in_train(self) -> bool:
        return all(subject is not None for subject in self.match_subject)

    def summary(self) -> dict[str, float]:
        """The flat dictionary that is logged.

        `verified_max` is absent when verification is off. The counts of flags and what derives from them are absent
        when the null has too few subjects for `alpha`: a zero would read as clean.
        """
        summary = {
            "mi_mean": self.mi.mean().item(),
            "mi_median": self.mi.median().item(),
            "mi_p95": self.mi.quantile(0.95).item(),
            "mi_max": self.mi.max().item(),
            "oni_mean": self.oni.mean().item(),
            "similarity_mean": self.similarity.mean().item(),
        }
        if not bool(self.verified.isnan().all()):
            summary["verified_max"] = self.verified.max().item()
        if self.resolvable:
            lower, upper = self.rate_interval()
            summary |= {
                "flagged": float(self.n_flagged),
                "flagged_expected": self.flagged_expected,
                "rate": self.rate,
                "rate_lower": lower,
                "rate_upper": upper,
                "matched_subjects": float(self.matched_subjects),
            }
        return summary

    def closest(self, n: int) -> list[int]:
        """Positions of the n images most likely to be copies, worst first: by p-value, then by MI."""
        order = sorted(range(len(self)), key=lambda i: (float(self.p_value[i]), -float(self.mi[i])))
        return order[:n]

    def __str__(self) -> str:
        lower, upper = self.rate_interval()
        null = f"{self.null_kind} null of {self.null_subjects} {'subjects' if self.subjects_known else 'images'}"
        mi = f"MI median {float(self.mi.median()):.2f}, max {float(self.mi.max()):.2f}"
        if not self.resolvable:
            needed, of = subjects_needed(self._level, self.null_kind), self.null_kind.replace("held_out", "held-out")
            return (
                f"{self.verdict}: {mi}, {null}; to flag a single image at {self._level:.3g} needs at least {needed} "
                f"{of} subjects"
            )
        text = (
            f"{self.verdict}: {self.n_flagged} of {len(self)} images flagged ({self._expected_in_words()}), rate "
            f"{self.rate:.1%} (95 % CI {lower:.1%} to {upper:.1%}), {mi}, {null}"
        )
        if float(self.mi.median()) < FAR:
            text += "; the samples look less like real images than these like each other, which says little on copying"
        return text

    def _expected_in_words(self) -> str:
        expected = f"{self.flagged_expected:.1f}"
        return f"at most {expected} expected by chance" if self.fdr is None else f"about {expected} of them false"
