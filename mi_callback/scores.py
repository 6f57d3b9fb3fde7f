"""What was found, per generated image, and its aggregates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.statistics.flagging import Flagging
from mi_callback.statistics.null import Null, NullKind
from mi_callback.statistics.power import Power
from mi_callback.statistics.rates.certificates import Certificate
from mi_callback.statistics.rates.copies import RateInterval
from mi_callback.statistics.target_decoy import TargetDecoy
from mi_callback.statistics.verdict import DECISIVE, LEVEL, Findings, Verdict, alarm, doubts, verdict

RECALL = 0.95
"""Share of the nearest training images that an engine must find for anything to read as clean."""


@dataclass(frozen=True)
class ImageScores:
    """What was found of n generated images, one by one; tensors lie on the CPU.

    Attributes:
        similarity: Aggregated feature similarity to the training set; larger is closer, 1 is identical.
        layer_similarity: The same per encoder layer.
        layers: Names of the columns of `layer_similarity`.
        mi: Memorization Index; about 0 for a novel image, large for a copy.
        oni: Overfit/Novelty Index, bounded, on the detector's scale.
        match: Row of the training set it resembles most.
        match_subject: Subject of that row, or None where subjects are unknown.
        consensus: How many layers have this row as their own nearest neighbour.
        verified: LNCC with the match after alignment; larger is closer, NaN when verification is off.
        copied_fraction: Share of the structure of the image that agrees with the match beyond what 95 % of novel
            images show: 0 for a novel image, 1 for a whole copy; NaN when verification is off.
        pose: Pose of the generated image in which the match was found.
        like_copies: Whether it resembles its match as only a copy would, far beyond the null.
        window: Window of the generated image by which the match was found; −1 for the whole image. None where matches
            are those of several images.
        by_edges: Whether the match was found by its edges, and compared under the contrast curve that fits. None as
            for `window`.
        p_tail: The p-value, extrapolated beyond the null by a fitted tail: for ranking alone; None unless asked for.
    """

    similarity: Float[Tensor, " n"]
    layer_similarity: Float[Tensor, "n layers"]
    layers: Sequence[str]
    mi: Float[Tensor, " n"]
    oni: Float[Tensor, " n"]
    match: Int[Tensor, " n"]
    match_subject: Sequence[str | None] = field(repr=False)  # ids: not for logs
    consensus: Int[Tensor, " n"]
    verified: Float[Tensor, " n"]
    copied_fraction: Float[Tensor, " n"]
    pose: Sequence[str]
    like_copies: Bool[Tensor, " n"]
    window: Int[Tensor, " n"] | None = None
    by_edges: Bool[Tensor, " n"] | None = None
    p_tail: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.similarity)

    @property
    def subjects_known(self) -> bool:
        """Whether the subjects of training images are known."""
        return all(subject is not None for subject in self.match_subject)

    def matched_subjects(self, chosen: Bool[Tensor, " n"]) -> int:
        """Number of distinct training subjects (images, where subjects are unknown) that the chosen images match."""
        rows = chosen.nonzero().flatten().tolist()
        return len({self.match_subject[i] if self.subjects_known else int(self.match[i]) for i in rows})


@dataclass(frozen=True)
class Scores:
    """Result for n generated images, in parts.

    What was found of each image is also at hand under its own name: `scores.mi` is `scores.images.mi`.

    Attributes:
        images: What was found of each image.
        flagging: p-values and flags, under which rule, against which null.
        power: What the detector found of planted copies; None where it was not measured.
        target_decoy: Second opinion: are samples closer to training than to held-out people? None unless asked for.
        control: The same samples against people who were not trained on; None without a control.
        caveats: Why the samples may copy what they are not compared with: then nothing reads as clean.
        recall: Share of the nearest training images that approximate engines find; None where search was exact.
        null: The real images that these were compared with, as sharp and noisy as these; None where they are none.
    """

    images: ImageScores
    flagging: Flagging
    power: Power | None = None
    target_decoy: TargetDecoy | None = None
    control: Flagging | None = None
    caveats: Sequence[str] = ()
    recall: float | None = None
    null: Null | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def similarity(self) -> Float[Tensor, " n"]:
        """Aggregated feature similarity to the training set; larger is closer, 1 is identical."""
        return self.images.similarity

    @property
    def layer_similarity(self) -> Float[Tensor, "n layers"]:
        """The same per encoder layer."""
        return self.images.layer_similarity

    @property
    def mi(self) -> Float[Tensor, " n"]:
        """Memorization Index; about 0 for a novel image, large for a copy."""
        return self.images.mi

    @property
    def oni(self) -> Float[Tensor, " n"]:
        """Overfit/Novelty Index, bounded, on the detector's scale."""
        return self.images.oni

    @property
    def p_value(self) -> Float[Tensor, " n"]:
        """How often a novel real image is at least this similar; small means memorized."""
        return self.flagging.p_value

    @property
    def flagged(self) -> Bool[Tensor, " n"]:
        """Whether the image counts as a copy at `alpha` (or under `fdr`)."""
        return self.flagging.flagged

    @property
    def n_flagged(self) -> int:
        """Number of flagged images."""
        return self.flagging.count

    @property
    def null_kind(self) -> NullKind:
        """How the null was made."""
        return self.flagging.null.kind

    @property
    def null_subjects(self) -> int:
        """Subjects in the null; no p-value is below 1 / (null_subjects + 1)."""
        return self.flagging.null.n_subjects

    @property
    def match(self) -> Int[Tensor, " n"]:
        """Row of the training set that the image resembles most."""
        return self.images.match

    @property
    def match_subject(self) -> Sequence[str | None]:
        """Subject of that row, or None where subjects are unknown."""
        return self.images.match_subject

    @property
    def consensus(self) -> Int[Tensor, " n"]:
        """How many layers have this row as their own nearest neighbour."""
        return self.images.consensus

    @property
    def verified(self) -> Float[Tensor, " n"]:
        """LNCC with the match after alignment; larger is closer, NaN when verification is off."""
        return self.images.verified

    @property
    def copied_fraction(self) -> Float[Tensor, " n"]:
        """Share of the structure that agrees with the match beyond what 95 % of novel images show."""
        return self.images.copied_fraction

    @property
    def pose(self) -> Sequence[str]:
        """Pose of the generated image in which the match was found."""
        return self.images.pose

    @property
    def findings(self) -> Findings:
        """All that the verdict rests on, in numbers."""
        return Findings(
            flagging=self.flagging,
            mi_median=float(self.mi.median()),
            like_copies=int(self.images.like_copies.sum()),
            matched_subjects=self.matched_subjects,
            power=self.power,
            target_decoy=self.target_decoy,
            control=self.control,
            caveats=[*self.caveats, *self._missed],
        )

    @property
    def _missed(self) -> list[str]:
        """What an engine that finds too few training images leaves open."""
        if self.recall is None or self.recall >= RECALL:
            return []
        return [f"the index finds only {self.recall:.1%} of the nearest training images: choose backend='torch'"]

    @property
    def verdict(self) -> Verdict:
        """`memorized`, `clean` or `inconclusive`; see `mi_callback.statistics.verdict`."""
        return verdict(self.findings)

    @property
    def doubts(self) -> list[str]:
        """Why neither clean nor memorized can be said; empty where one of them can."""
        return doubts(self.findings)

    def alarm(self, look: int, risk: float = LEVEL) -> bool:
        """Whether look number `look` (from 1) at a run shows more flags than a whole run without memorization would."""
        return alarm(self.findings, look, risk)

    @property
    def matched_subjects(self) -> int:
        """Number of distinct training subjects (images, where subjects are unknown) that flagged images match."""
        return self.images.matched_subjects(self.flagged)

    def rate_interval(self, confidence: float = 0.95) -> RateInterval:
        """Limits of the share of copies among the samples; see `Flagging.rate_interval`.

        Raises:
            CalibrationError: If the null cannot resolve alpha.
        """
        return self.flagging.rate_interval(self.power, confidence)

    def certificate(self, confidence: float = 0.95) -> Certificate:
        """At most what share of the samples are copies, and what that rests on, in a sentence.

        Raises:
            CalibrationError: If the null cannot resolve alpha.
        """
        return self.flagging.certificate(self.power, confidence)

    def summary(self) -> dict[str, float]:
        """The flat dictionary that is logged.

        `verified_max` is absent when verification is off. The counts of flags and what derives from them are absent
        when the null has too few subjects for `alpha`: a zero would read as clean.
        """
        flagging = self.flagging
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
        if flagging.resolvable:
            summary |= {
                "flagged": float(flagging.count),
                "flagged_expected": flagging.expected,
                "rate": flagging.rate,
                "matched_subjects": float(self.matched_subjects),
            }
        if flagging.calibrated:
            interval = self.rate_interval()
            summary |= {"rate_lower": interval.lower, "rate_upper": interval.upper}
        summary["distinct"] = float(flagging.n_distinct)
        if self.target_decoy is not None:
            summary |= {
                "contrast_p": self.target_decoy.p_value,
                "leaked_subjects": float(self.target_decoy.leaked),
            }
        if self.control is not None and self.control.calibrated:
            summary |= {"control_flagged": float(self.control.count), "control_rate": self.control.rate}
        if self.recall is not None:
            summary["retrieval_recall"] = self.recall
        if self.power is not None and flagging.calibrated:
            summary["power"] = self.power.overall
        return summary

    def closest(self, n: int) -> list[int]:
        """Positions of the n images most likely to be copies, worst first: by `p_tail` or p-value, then by MI."""
        p = self.p_value if self.images.p_tail is None else self.images.p_tail
        order = sorted(range(len(self)), key=lambda i: (float(p[i]), -float(self.mi[i])))
        return order[:n]

    @property
    def headline(self) -> str:
        """The result in one line of at most 120 characters: verdict, flags beside those to expect, MI."""
        mi = f"MI median {float(self.mi.median()):.2f}"
        if not self.flagging.resolvable:
            return f"{self.verdict}: {mi}, nothing can be flagged"
        expected = f"{self.flagging.expected:.1f}"
        beside = (
            f"at most {expected} expected by chance" if self.flagging.rule.fdr is None else f"about {expected} false"
        )
        return f"{self.verdict}: {self.flagging.count} of {len(self)} images flagged, {beside}; {mi}"

    @property
    def notes(self) -> list[str]:
        """What else there is to know, a fact each: limits of the share of copies, the null, what was not tested."""
        flagging, power = self.flagging, self.power
        unit = "subjects" if flagging.null.subjects_known else "images"
        notes = [
            f"{flagging.null.kind} null of {flagging.null.n_subjects} {unit}, MI at most {float(self.mi.max()):.2f}"
        ]
        if flagging.null.quality is not None:
            notes.append(f"compared with real images that were {flagging.null.quality}, as the samples are")
        if flagging.calibrated:
            interval = self.rate_interval()
            assumed = "" if power else " if every copy is seen"
            lower, upper = math.floor(1000 * interval.lower + 1e-9) / 10, math.ceil(1000 * interval.upper - 1e-9) / 10
            notes.insert(0, f"copies {lower:.1f}% to {upper:.1f}% (95 % CI{assumed})")  # outward, as limits are
        if self.recall is not None:
            notes.append(f"approximate search: {self.recall:.1%} of the nearest training images are found")
        if flagging.n_distinct < len(self) / 2:
            notes.append(f"the images are near-duplicates of one another: {flagging.n_distinct} distinct ones")
        if self.target_decoy is not None:
            notes.append(_contrast_in_words(self.target_decoy))
        if self.control is not None:
            notes.append(_control_in_words(self.control))
        if power is None and self.verdict == Verdict.CLEAN:
            notes.append("untested: no copies were planted to see whether they would be found (power)")
        if power is not None and flagging.calibrated and power.missed:
            notes.append(f"copies changed by {', '.join(power.missed)} would be missed")
        return notes

    def __str__(self) -> str:
        """The headline; below it why nothing can be said, if so, and what else there is to know, a line each."""
        doubts = [f"! {doubt}" for doubt in self.doubts]
        return "\n  ".join([self.headline, *doubts, *self.notes])


def _contrast_in_words(contrast: TargetDecoy) -> str:
    near = f"contrast p = {contrast.p_value:.2g}"
    if contrast.p_value > LEVEL and contrast.least > DECISIVE:
        near += ", too few people flagged for it to decide"
    if contrast.leaked:
        return f"{near}, {contrast.leaked} training subjects copied at a false discovery rate of {contrast.fdr:g}"
    return f"{near}, no subject copied for sure at a false discovery rate of {contrast.fdr:g}"


def _control_in_words(control: Flagging) -> str:
    if not control.calibrated:
        return f"control: {control.null.difference or 'too few held-out subjects beside it'}"
    return (
        f"control: {control.count} of {len(control)} images flagged against people who were not trained on, at most "
        f"{control.expected:.1f} expected by chance"
    )
