"""The null: similarities of real images that were not trained on, their moments, and what they can resolve."""

import math
from dataclasses import dataclass
from enum import StrEnum

from jaxtyping import Float
from torch import Tensor

from mi_callback.errors import CalibrationError, choice
from mi_callback.statistics.conformal import at_most, conformal_p_values
from mi_callback.statistics.subjects import subject_weights
from mi_callback.types import Similarity, Subjects


class NullKind(StrEnum):
    """Which real images stand for those that were not trained on. Members are strings, `"held_out"` for example.

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
        similarity: Best match of each image, float64; larger is closer.
        subjects: Subject of each, or None: then every image counts as its own subject.
        kind: How it was made; any but `auto`. A string becomes a `NullKind`.
        correction: How much smaller its reference was than that of generated images; see `conformal_p_values`.
        suspects: People in it who resemble training images as only copies do: if they were trained on, copies look
            normal.
        usual: Share of structure that agrees by nature at each level of the local correlation; None where nothing was
            aligned.

    Raises:
        CalibrationError: For fewer than two images, similarities that are not finite or all the same, another number
            of subjects, or an unknown kind.

    Example:
        >>> null = Null(torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64), None, NullKind.HELD_OUT)
        >>> null.n_subjects, round(null.mean, 2), round(null.std, 4), null.resolves(0.05)
        (3, 0.3, 0.0816, False)
    """

    similarity: Float[Tensor, " m"]
    subjects: Subjects | None
    kind: NullKind
    correction: float = 1.0
    suspects: int = 0
    usual: Float[Tensor, " levels"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", null_kind(self.kind))
        n = len(self.similarity)
        if n < 2:
            raise CalibrationError(
                f"needed at least 2 images for the {self.kind} null; {n} came. "
                "Pass more held-out images, from subjects that the generator was not trained on."
            )
        if not self.similarity.isfinite().all():
            raise CalibrationError(f"needed finite similarities for the {self.kind} null; NaN or infinity came.")
        if self.subjects is not None and len(self.subjects) != n:
            raise CalibrationError(f"needed one subject per null image ({n}); {len(self.subjects)} came.")
        if self.std <= 1e-9:
            raise CalibrationError(
                f"needed a {self.kind} null that varies; all {n} images are equally similar to the training set. "
                "Are they copies of each other?"
            )

    @property
    def weights(self) -> Float[Tensor, " m"]:
        """`subject_weights` of the images: they sum to the number of subjects."""
        return subject_weights(self.subjects, len(self.similarity)).to(self.similarity.device)

    @property
    def n_subjects(self) -> int:
        """Number of subjects G; that of images where subjects are unknown."""
        return len(self.similarity) if self.subjects is None else len(set(self.subjects))

    @property
    def mean(self) -> float:
        r"""Mean similarity, every subject weighing the same.

        .. math:: \mu_0 = \frac{1}{G} \sum_g \frac{1}{n_g} \sum_j s_{gj}
        """
        return float((self.weights * self.similarity).sum() / self.n_subjects)

    @property
    def std(self) -> float:
        r"""Standard deviation, every subject weighing the same.

        .. math:: \sigma_0^2 = \frac{1}{G} \sum_g \frac{1}{n_g} \sum_j (s_{gj} - \mu_0)^2
        """
        return float(((self.weights * (self.similarity - self.mean).square()).sum() / self.n_subjects).sqrt())

    def resolves(self, alpha: float) -> bool:
        """Whether p ≤ alpha can happen at all with this many subjects."""
        return at_most(smallest_p(self.n_subjects, self.kind), alpha)

    def p_values(self, similarity: Similarity) -> Float[Tensor, " n"]:
        """Conformal p-values of generated images against this null; small means memorized. See `conformal_p_values`.

        Raises:
            CalibrationError: If a similarity is not finite.
        """
        return conformal_p_values(similarity, self.similarity, self.subjects, self.kind.offset, self.correction)


def smallest_p(n_subjects: int, kind: NullKind | str = NullKind.HELD_OUT) -> float:
    r"""The smallest p-value that a null of G subjects can give: no smaller one can be honest.

    .. math:: p_{\min} = \min\left(1, \frac{k}{G + 1}\right)

    Args:
        n_subjects: G, subjects in the null.
        kind: How it was made; its offset is k.

    Raises:
        CalibrationError: For an unknown kind.

    Example:
        >>> smallest_p(19), smallest_p(19, "cross_fit")
        (0.05, 0.1)
    """
    return min(1.0, null_kind(kind).offset / (n_subjects + 1))


def subjects_needed(alpha: float, kind: NullKind | str = NullKind.HELD_OUT) -> int:
    r"""The smallest number of subjects in a null for which p ≤ alpha can happen.

    .. math:: G = \left\lceil \frac{k}{\alpha} \right\rceil - 1

    Args:
        alpha: Level, in (0, 1).
        kind: How the null is made; its offset is k.

    Raises:
        CalibrationError: For an unknown kind, or a level that is no probability.

    Example:
        >>> subjects_needed(0.05), subjects_needed(0.05, "cross_fit")
        (19, 39)
    """
    if not 0 < alpha <= 1:
        raise CalibrationError(f"needed a level in (0, 1] to count subjects for; {alpha!r} came.")
    return max(1, math.ceil(null_kind(kind).offset / alpha - 1e-9) - 1)
