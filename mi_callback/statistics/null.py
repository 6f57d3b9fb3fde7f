"""The null: similarities of real images that were not trained on, their moments, and what they can resolve."""

import math
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from mi_callback.errors import CalibrationError, choice
from mi_callback.statistics.conformal import at_most, conformal_p_values
from mi_callback.statistics.subjects import subject_weights
from mi_callback.types import Similarity, Subjects


class NullKind(StrEnum):
    """Which real images stand for those that were not trained on. Members are strings: `"held_out"` is one too.

    Attributes:
        AUTO: `HELD_OUT` where held-out images are given, else `CROSS_FIT`: a choice, which no null has for its kind.
        HELD_OUT: Images of people who were not trained on.
        CROSS_FIT: Training people in folds, each searched in the others.
        TRAIN_HALVES: Random halves of the training set, the paper's null: not calibrated, for comparison.
    """

    AUTO = "auto"
    HELD_OUT = "held_out"
    CROSS_FIT = "cross_fit"
    TRAIN_HALVES = "train_halves"

    @property
    def offset(self) -> int:
        """What is added to the count in a p-value: 2 where people of the null are compared with each other, else 1.
        See `conformal_p_values`.
        """
        return 2 if self is NullKind.CROSS_FIT else 1

    @property
    def calibrated(self) -> bool:
        """Whether p-values against such a null mean what they say."""
        return self is not NullKind.TRAIN_HALVES


def null_kind(value: NullKind | str) -> NullKind:
    """The kind of a null that was made, from its name.

    Raises:
        CalibrationError: For another name, and for `auto`, which no null is.

    Example:
        >>> null_kind("cross_fit").offset
        2
    """
    choice("a kind of null", value, [kind for kind in NullKind if kind is not NullKind.AUTO], CalibrationError)
    return NullKind(value)


@dataclass(frozen=True)
class Null:
    """Similarity of real images that were not trained on, searched as generated images are.

    Attributes:
        similarity: Shape `(m,)`, float64.
        subjects: Subject of each, or None: then every image counts as its own subject.
        kind: How it was made (`held_out`, `cross_fit`, `train_halves`).
        suspects: People in it who resemble training images as only copies do: if they were trained on, copies look
            normal.
        correction: How much smaller its reference was than that of generated images; see `conformal_p_values`.
        usual: Share of structure that agrees by nature at each level of the LNCC, `(levels,)`; None where nothing was
            aligned. See `copied`.
    """

    similarity: Tensor
    subjects: Subjects | None
    kind: NullKind
    correction: float = 1.0
    suspects: int = 0
    usual: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", null_kind(self.kind))
        if len(self.similarity) < 2:
            raise CalibrationError(
                f"needed at least 2 images for the {self.kind} null; {len(self.similarity)} came. "
                "Pass more held-out images, from subjects that the generator was not trained on."
            )
        if not self.similarity.isfinite().all():
            raise CalibrationError(f"needed finite similarities for the {self.kind} null; NaN or infinity came.")
        if self.subjects is not None and len(self.subjects) != len(self.similarity):
            raise CalibrationError(
                f"needed one subject per null image ({len(self.similarity)}); {len(self.subjects)} came."
            )
        if self.std <= 1e-9:
            raise CalibrationError(
                f"needed a {self.kind} null that varies; all {len(self.similarity)} images are equally similar to the "
                "training set. Are they copies of each other?"
            )

    @property
    def weights(self) -> Tensor:
        """1 / n_g for an image of a subject with n_g images, `(m,)`; they sum to the number of subjects."""
        return subject_weights(self.subjects, len(self.similarity)).to(self.similarity.device)

    @property
    def n_subjects(self) -> int:
        return len(self.similarity) if self.subjects is None else len(set(self.subjects))

    @property
    def mean(self) -> float:
        """μ₀, every subject weighing the same."""
        return float((self.weights * self.similarity).sum() / self.n_subjects)

    @property
    def std(self) -> float:
        """σ₀, every subject weighing the same."""
        return float(((self.weights * (self.similarity - self.mean).square()).sum() / self.n_subjects).sqrt())

    def resolves(self, alpha: float) -> bool:
        """Whether p ≤ alpha can happen at all with this many subjects."""
        return at_most(smallest_p(self.n_subjects, self.kind), alpha)

    def p_values(self, similarity: Similarity) -> Tensor:
        """Conformal p-values of generated images against this null (see `conformal_p_values`)."""
        offset = self.kind.offset
        return conformal_p_values(similarity, self.similarity, self.subjects, offset, self.correction)


def smallest_p(n_subjects: int, kind: NullKind | str = NullKind.HELD_OUT) -> float:
    """offset / (G + 1): with G subjects in the null no smaller p-value can be honest."""
    return min(1.0, null_kind(kind).offset / (n_subjects + 1))


def subjects_needed(alpha: float, kind: NullKind | str = NullKind.HELD_OUT) -> int:
    """The smallest number of subjects in the null for which p ≤ alpha can happen."""
    return max(1, math.ceil(null_kind(kind).offset / alpha - 1e-9) - 1)
