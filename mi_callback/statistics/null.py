"""How often would a real image that was not trained on look this similar? Nulls, p-values, indices."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.types import Similarity, Subjects

NullKind = Literal["auto", "held_out", "cross_fit", "train_halves"]
OniScale = Literal["unit", "paper"]

ROUNDING = 1e-12
"""Slack for p ≤ α, so that p = α survives the rounding of sums of 1 / n_g."""

TIE = 1e-6
"""Similarities that differ by less are equal: single precision does not tell them apart."""

OFFSETS: dict[NullKind, int] = {"held_out": 1, "cross_fit": 2, "train_halves": 1}
"""What is added to the count in a p-value, by null; see `conformal_p_values`."""


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
        return smallest_p(self.n_subjects, self.kind) <= alpha + ROUNDING

    def p_values(self, similarity: Similarity) -> Tensor:
        """Conformal p-values of generated images against this null (see `conformal_p_values`)."""
        offset = OFFSETS[self.kind]
        return conformal_p_values(similarity, self.similarity, self.subjects, offset, self.correction)


def subject_weights(subjects: Subjects | None, n: int) -> Tensor:
    """1 / (number of images of the same subject) per image, float64; ones without subjects."""
    if subjects is None:
        return torch.ones(n, dtype=torch.float64)
    number = numbered(subjects)
    return 1 / torch.bincount(number).to(torch.float64)[number]


def numbered(subjects: Subjects) -> Tensor:
    """Number of the subject of each image, from 0, in the order of their first images; `(n,)`."""
    number = {subject: i for i, subject in enumerate(dict.fromkeys(subjects))}
    return torch.tensor([number[subject] for subject in subjects])


def robust_std(values: Tensor) -> Tensor:
    """Standard deviation from the median absolute deviation, as of a normal distribution."""
    return 1.4826 * (values - values.median()).abs().median()


def smallest_p(n_subjects: int, kind: NullKind = "held_out") -> float:
    """offset / (G + 1): with G subjects in the null no smaller p-value can be honest."""
    return min(1.0, OFFSETS[kind] / (n_subjects + 1))


def subjects_needed(alpha: float, kind: NullKind = "held_out") -> int:
    """The smallest number of subjects in the null for which p ≤ alpha can happen."""
    return max(1, math.ceil(OFFSETS[kind] / alpha - 1e-9) - 1)


def conformal_p_values(
    similarity: Similarity,
    null: Tensor,
    subjects: Subjects | None = None,
    offset: int = 1,
    correction: float = 1.0,
) -> Tensor:
    """How often a novel real image is at least this similar to the training set.

    With G held-out subjects of n_g images each, p = (offset + c Σ_g (1 / n_g) Σ_j 1{s_gj ≥ s}) / (G + 1): the images of
    one subject are one unit of evidence. Without subjects G is the number of images. Similarities within `TIE` of each
    other are equal. The p-value is that of a random image of a random subject.

    The offset is 1 for images that are no part of the reference. It is 2 where training subjects are compared with
    each other: among G + 1 exchangeable subjects the closest pair is as close to each other as anyone is to anyone, so
    a novel one belongs to it with probability 2 / (G + 1); without itself in the reference, its partner looks far.

    The correction c is the number of training subjects that a generated image is compared with, over the number that
    a null image was: with a subject more in the reference, the probability to exceed a similarity grows by less than
    the average of those before, so c bounds what a smaller reference hides.

    Args:
        similarity: Best match of each generated image, shape `(n,)`; larger is closer.
        null: The same for held-out real images searched in the *same* index, shape `(m,)`.
            A subject shared with the training set inflates it and hides copies.
        subjects: Subject of each null image, length m.
        offset: 1, or 2 for a null of training subjects against each other.
        correction: c, at least 1.

    Returns:
        p-values in `[offset / (G + 1), 1]`, float64, shape `(n,)`; small means memorized.

    Raises:
        CalibrationError: If `null` is empty, either input is not finite, or `subjects` do not match `null`.

    References:
        Bates et al., "Testing for outliers with conformal p-values", Ann. Statist. 2023;
        Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023 (subjects).

    Example:
        >>> conformal_p_values(torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.3, 0.4])).tolist()
        [0.25, 1.0]
    """
    if len(null) == 0:
        raise CalibrationError("needed at least one null image for p-values; none came.")
    if not (null.isfinite().all() and similarity.isfinite().all()):
        raise CalibrationError("needed finite similarities for p-values; NaN or infinity came.")
    if subjects is not None and len(subjects) != len(null):
        raise CalibrationError(f"needed one subject per null image ({len(null)}); {len(subjects)} came.")
    weights = subject_weights(subjects, len(null)).to(null.device)
    null, order = null.to(torch.float64).sort()
    # exceed[i] = weight of the null images at rank i or above; one more entry for "none".
    exceed = torch.cat([weights[order].flip(0).cumsum(0).flip(0), weights.new_zeros(1)])
    rank = torch.searchsorted(null, similarity.to(torch.float64).contiguous() - TIE, side="left")
    return ((offset + correction * exceed[rank]) / (1 + weights.sum())).clamp(max=1)


def memorization_index(similarity: Similarity, null: Null) -> Tensor:
    """MI = (s − μ₀) / σ₀, `(n,)` float64: about 0 for a novel image, large for a copy (Deo et al. 2026)."""
    return (similarity.to(torch.float64) - null.mean) / null.std


def overfit_novelty_index(mi: Tensor, scale: OniScale = "unit") -> Tensor:
    """ONI of MI `(n,)`. `unit`: max(0, tanh MI), 0 novel, 1 identical; `paper`: −tanh MI, −1 memorized, +1 novel.

    Raises:
        CalibrationError: If the scale is unknown.
    """
    match scale:
        case "unit":
            return mi.tanh().clamp_min(0)
        case "paper":
            return -mi.tanh()
        case _:
            raise CalibrationError(f"needed oni_scale unit or paper; {scale!r} came.")
