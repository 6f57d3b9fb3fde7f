"""What was matched, and against which null → scores."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.detection.matching import Match
from mi_callback.detection.pool import Pool
from mi_callback.images.poses import POSES
from mi_callback.judging.calibration import Calibration
from mi_callback.registration.copied_fraction import copied_fraction
from mi_callback.retrieval.aggregation import Aggregation
from mi_callback.retrieval.duplicates import near_duplicates
from mi_callback.retrieval.features import Features
from mi_callback.scores import ImageScores
from mi_callback.state import FittedState
from mi_callback.statistics.duplicates import groups_of_duplicates
from mi_callback.statistics.flagging import Flagging, FlagRule, NullSummary
from mi_callback.statistics.indices import OniScale, memorization_index, overfit_novelty_index
from mi_callback.statistics.outliers import like_copies
from mi_callback.statistics.subjects import numbered
from mi_callback.statistics.target_decoy import TargetDecoy, chance_of_all_trained, target_decoy_contrast
from mi_callback.statistics.verdict import DECISIVE, exceeds_chance, undecidable

POOL_FDR = 0.1
"""False discovery rate of people in a target-decoy contrast where no other was asked for."""


@dataclass(frozen=True)
class Scorer:
    """How matches become scores.

    Attributes:
        state: What the detector was fitted on.
        calibration: The null that decides: of real images as sharp and noisy as the samples.
        rule: When an image is flagged.
        aggregation: How layers combine.
        oni_scale: Scale of the ONI.
        seed: Of random labels.
    """

    state: FittedState
    calibration: Calibration
    rule: FlagRule
    aggregation: Aggregation
    oni_scale: OniScale
    seed: int

    def flag(self, generated: Features, found: Match) -> Flagging:
        """p-values and flags of n images against the null; near-duplicates are grouped."""
        null = self.calibration.null
        p_value = null.p_values(found.similarity)
        group = groups_of_duplicates(len(generated), self._duplicates(generated, found.row))
        summary = NullSummary.of(null, self.state.difference, self.calibration.quality)
        return Flagging(p_value, self.rule.flag(p_value), group, self.rule, summary)

    def score(self, found: Match, p_value: Float[Tensor, " n"]) -> ImageScores:
        """What was found of each image."""
        state, subjects = self.state, self.state.train.subjects
        null, tail = self.calibration.null, self.calibration.tail
        # Against real images as they are: so it can be compared between runs, and between epochs of one.
        mi = memorization_index(found.similarity, state.null)
        return ImageScores(
            similarity=found.neighbours.similarity,
            layer_similarity=found.neighbours.layer_similarity,
            layers=state.reference.layers,
            mi=mi,
            oni=overfit_novelty_index(mi, self.oni_scale),
            match=found.row,
            match_subject=[None if subjects is None else subjects[i] for i in found.row.tolist()],
            consensus=found.neighbours.consensus(found.row),
            verified=found.verified,
            copied_fraction=copied_fraction(found.shares, null.usual)[0],
            pose=[list(POSES)[i] for i in found.pose.tolist()],
            like_copies=like_copies(found.similarity, null.similarity),
            window=found.window,
            by_edges=found.by_edges,
            p_tail=None if tail is None else tail.extrapolate(found.similarity, p_value),
        )

    def contrast_could_object(self, found: Match, flagging: Flagging) -> bool:
        """Whether more is flagged than chance explains, of so many people that a contrast would see no copying."""
        held_out, trained = self.state.held_out, self.state.train.ids
        if held_out is None or undecidable(flagging) or not exceeds_chance(flagging):
            return False
        people = {trained[i] for i in found.row[flagging.flagged].tolist()}
        return chance_of_all_trained(len(people), len(set(trained)), len(set(held_out.ids))) <= DECISIVE

    def contrast(self, pool: Pool, found: Match, flagged: Bool[Tensor, " n"]) -> TargetDecoy:
        """Whether the samples, matched in a pool of both sides, are closer to training than to held-out people."""
        fdr = self.rule.fdr or POOL_FDR
        return target_decoy_contrast(found.similarity, pool.subject[found.row], pool.trained, flagged, fdr, self.seed)

    def _duplicates(self, generated: Features, row: Int[Tensor, " n"]) -> Int[Tensor, "k 2"]:
        """Pairs of near-duplicates among generated images: closer than any two strangers, and of the same person."""
        pairs = near_duplicates(self.state.reference, generated, self.aggregation, self.state.duplicate)
        person = numbered(self.state.train.ids)[row]
        return pairs[person[pairs[:, 0]] == person[pairs[:, 1]]]
