"""What was found, per generated image, and its aggregates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mi_callback.statistics import verdict as judgement
from mi_callback.statistics.conformal import at_most, round_down, round_up
from mi_callback.statistics.duplicates import FlagCount, distinct_flags
from mi_callback.statistics.multiplicity import Procedure
from mi_callback.statistics.null import NullKind, smallest_p
from mi_callback.statistics.power import Power
from mi_callback.statistics.rates.certificates import Certificate, certify
from mi_callback.statistics.rates.clopper_pearson import Limits
from mi_callback.statistics.rates.copies import memorization_rate
from mi_callback.statistics.target_decoy import TargetDecoy

Verdict = Literal["clean", "memorized", "inconclusive"]

FAR = -2.0
"""Median MI below which samples are too unlike real images for their novelty to mean much."""


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
        copied_fraction: Share of the structure of the image that agrees with the match beyond what 95 % of novel
            images show (see `copied`): 0 for a novel image, 1 for a whole copy; NaN when verification is off.
        pose: Pose of the generated image in which the match was found.
        layers: Names of the columns of `layer_similarity`.
        alpha: Level of each flag.
        fdr: False discovery rate of the flags, if they were chosen by Benjamini-Hochberg.
        null_kind: How the null was made.
        null_subjects: Number of subjects G in the null; no p-value is below 1 / (G + 1).
        null_images: Number of images in the null.
        subjects_known: Whether subject ids were given; without them every image counts as its own subject.
        group: Number of the group of near-duplicates each image is in; `(n,)`.
        procedure: How flags were chosen under `fdr`.
        null_suspects: People in the null who resemble training images as only copies do.
        like_copies: Whether an image resembles its match as only a copy would, far beyond the null; bool `(n,)`.
        p_tail: `p_value`, extrapolated beyond the null by a fitted tail: for ranking alone; None unless asked for.
        contrast: Second opinion: are samples closer to training than to held-out people? None unless asked for.
        power: What the detector found of planted copies; None where it was not measured.
        window: Window of the generated image by which the match was found (see `regions`); −1 for the whole image.
        by_edges: Whether the match was found by its edges, and compared under the contrast curve that fits.
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
    group: Tensor
    procedure: Procedure = Procedure.BH
    null_suspects: int = 0
    like_copies: Tensor | None = None
    p_tail: Tensor | None = None
    contrast: TargetDecoy | None = None
    power: Power | None = None
    window: Tensor | None = None
    by_edges: Tensor | None = None

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

    def rate_interval(self, confidence: float = 0.95) -> Limits:
        """Limits of the share of copies among the samples, for false flags and (where power was measured) misses.

        The lower one is above 0 only for more flags than chance explains; the upper one takes every flag for a copy,
        and counts those that the detector would not see. See `rates.copies.memorization_rate`.

        Raises:
            CalibrationError: If the null cannot resolve alpha.
        """
        distinct, _ = self.distinct_flags(self.alpha)
        interval = memorization_rate(
            # Where near-duplicates are not flagged, the smaller share counts: of images or of groups.
            min(distinct, round_down(self._share_of_groups)),
            self.n_distinct,
            self.alpha,
            self.null_subjects,
            self.several_each,
            confidence=confidence,
            kind=self.null_kind,
        )
        return Limits(interval.lower, self.certificate((1 + confidence) / 2).rate_upper)

    def certificate(self, confidence: float = 0.95) -> Certificate:
        """At most what share of the samples are copies, and what that rests on, in a sentence.

        Raises:
            CalibrationError: If the null cannot resolve alpha.
        """
        # Where near-duplicates are flagged, they may all be copies: the larger share counts, of images or of groups.
        distinct, _ = self.distinct_flags(self.alpha)
        return certify(
            max(distinct, round_up(self._share_of_groups)),
            self.n_distinct,
            self.alpha,
            self.null_subjects,
            None if self.power is None else self.power.counts,
            confidence,
            self.null_kind,
        )

    @property
    def resolvable(self) -> bool:
        """Whether a single copy could be flagged with as few subjects as the null has (under `fdr` true if any is)."""
        found = self.fdr is not None and self.n_flagged > 0
        return found or at_most(smallest_p(self.null_subjects, self.null_kind), self.level)

    @property
    def calibrated(self) -> bool:
        """Whether p ≤ alpha can happen against this null, and then means what it says."""
        return self.null_kind != NullKind.TRAIN_HALVES and at_most(
            smallest_p(self.null_subjects, self.null_kind), self.alpha
        )

    @property
    def n_distinct(self) -> int:
        """Number of images when near-duplicates of one another count once."""
        return len(self.group.unique())

    @property
    def several_each(self) -> bool:
        """Whether subjects of the null have several images."""
        return self.null_images > self.null_subjects

    @property
    def verdict(self) -> Verdict:
        """`memorized`: more distinct flags than novel images would get (5 % level). `clean`: no evidence of it, and no
        proof of its absence. `inconclusive`: one of `doubts`. See `mi_callback.statistics.verdict`.
        """
        if self.doubts:
            return "inconclusive"
        return "memorized" if judgement.says_memorized(self) else "clean"

    @property
    def doubts(self) -> list[str]:
        """Why neither clean nor memorized can be said; empty where one of them can."""
        return judgement.doubts(self)

    def alarm(self, look: int, risk: float = judgement.LEVEL) -> bool:
        """Whether look number `look` (from 1) at a run shows more flags than a whole run without memorization would.

        As the p-values, it takes novel samples to resemble real images of other people; a contrast that sees no copying
        where it could silences it. See `rates.false_flags.alarm`. False where nothing can be flagged: see `calibrated`.
        """
        return judgement.alarm(self, look, risk)

    def flags(self, level: float) -> FlagCount:
        """Images with p ≤ level, and images."""
        return FlagCount(int(at_most(self.p_value, level).sum()), len(self))

    def distinct_flags(self, level: float) -> FlagCount:
        """The same, where near-duplicates count once."""
        return distinct_flags(at_most(self.p_value, level), self.group)

    @property
    def _share_of_groups(self) -> float:
        """Distinct images of which as large a share is flagged as of all images."""
        flagged, n = self.flags(self.alpha)
        return flagged / n * self.n_distinct

    @property
    def level(self) -> float:
        """The p-value at which a single image is flagged."""
        return self.alpha if self.fdr is None else self.fdr / len(self)

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
            summary |= {
                "flagged": float(self.n_flagged),
                "flagged_expected": self.flagged_expected,
                "rate": self.rate,
                "matched_subjects": float(self.matched_subjects),
            }
        if self.calibrated:
            summary["rate_lower"], summary["rate_upper"] = self.rate_interval()
        summary["distinct"] = float(self.n_distinct)
        if self.contrast is not None:
            summary |= {"contrast_p": self.contrast.p_value, "leaked_subjects": float(self.contrast.leaked)}
        if self.power is not None and self.calibrated:
            summary["power"] = self.power.overall
        return summary

    def closest(self, n: int) -> list[int]:
        """Positions of the n images most likely to be copies, worst first: by `p_tail` or p-value, then by MI."""
        p = self.p_value if self.p_tail is None else self.p_tail
        order = sorted(range(len(self)), key=lambda i: (float(p[i]), -float(self.mi[i])))
        return order[:n]

    def __str__(self) -> str:
        null = f"{self.null_kind} null of {self.null_subjects} {'subjects' if self.subjects_known else 'images'}"
        mi = f"MI median {float(self.mi.median()):.2f}, max {float(self.mi.max()):.2f}"
        verdict, doubts = self.verdict, "".join(f"; {doubt}" for doubt in self.doubts)
        if not self.resolvable:
            return f"{verdict}: {mi}, {null}{doubts}"
        text = f"{verdict}: {self.n_flagged} of {len(self)} images flagged ({self._expected_in_words()}), "
        if self.calibrated:
            lower, upper = self.rate_interval()
            assumed = "" if self.power else " if every copy is seen"
            text += f"copies {lower:.1%} to {upper:.1%} (95 % CI{assumed}), "
        text += f"{mi}, {null}{doubts}"
        if self.n_distinct < len(self) / 2:
            text += f"; the images are near-duplicates of one another: {self.n_distinct} distinct ones"
        if self.contrast is not None:
            text += f"; {self._contrast_in_words(self.contrast)}"
        if self.power is None and verdict == "clean":
            text += "; untested: no copies were planted to see whether they would be found (power)"
        if self.power is not None and self.calibrated and self.power.missed:
            text += f"; copies changed by {', '.join(self.power.missed)} would be missed"
        if float(self.mi.median()) < FAR:
            text += "; the samples are far from real images (blurred or noisy?): too early to judge copying"
        return text

    @staticmethod
    def _contrast_in_words(contrast: TargetDecoy) -> str:
        near = f"contrast p = {contrast.p_value:.2g}"
        if contrast.p_value > judgement.LEVEL and contrast.least > judgement.DECISIVE:
            near += ", too few people flagged for it to decide"
        if contrast.leaked:
            return f"{near}, {contrast.leaked} training subjects copied at a false discovery rate of {contrast.fdr:g}"
        return f"{near}, no subject copied for sure at a false discovery rate of {contrast.fdr:g}"

    def _expected_in_words(self) -> str:
        expected = f"{self.flagged_expected:.1f}"
        return f"at most {expected} expected by chance" if self.fdr is None else f"about {expected} of them false"
