"""Are the samples closer to people trained on than to people held out? A second opinion that needs no null.

Samples are looked up in a pool of training and held-out images that does not say which is which. If the generator
knows nothing of *which* of these people it was trained on, the labels "trained" and "held out" are exchangeable among
the subjects of the pool, whatever its samples look like: too smooth, too sharp, collapsed, near-duplicates of each
other. So subjects are the unit, and nothing is assumed of the samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import TIE, at_most
from mi_callback.statistics.outliers import robust_std

DRAWS = 1999
"""Random labellings behind a p-value, which is thus at least 1 / 2000."""


@dataclass(frozen=True)
class TargetDecoy:
    """Result for n samples looked up in a pool of G_T training and G_H held-out subjects.

    Attributes:
        p_value: How often random labels make the matched subjects look as trained on as they are; exact for a generator
            that does not depend on who of the pool was trained on; at least 1 / (`DRAWS` + 1).
        least: The smallest p-value that the number of flagged people allows: all of them trained on, by chance.
        in_train: Whether the closest image of the pool to each sample is a training image, bool `(n,)`.
        flagged: Whether the sample counts as a copy of a training subject at false discovery rate `fdr` *of subjects*
            (knockoff+), bool `(n,)`.
        leaked: Number of training subjects so discovered.
        expected_share: G_T / (G_T + G_H), the share of `in_train` subjects to expect of a generator that copies nobody.
        fdr: The rate asked for.
    """

    p_value: float
    least: float
    in_train: Tensor
    flagged: Tensor
    leaked: int
    expected_share: float
    fdr: float


def target_decoy_contrast(
    similarity: Tensor, subject: Tensor, trained: Tensor, suspicious: Tensor, fdr: float = 0.1, seed: int = 0
) -> TargetDecoy:
    """Compare the evidence against training subjects with that against held-out subjects.

    The evidence against a subject is the highest similarity of a sample whose closest image in the pool is of that
    subject. Subjects are discovered from the highest evidence downwards as long as

        (1 + #held out) · G_T / (1 + G_H) / #trained ≤ fdr

    among those so far: knockoff+ with held-out subjects as decoys, for sides of unequal size. The p-value is that of a
    permutation test of the labels; its statistic sums, over matched training subjects, 1 and the squared excess of
    their evidence over the median, in robust standard deviations.

    Copies of slices that the pool does not hold count for whom they resemble most.

    Args:
        similarity: To the closest image of the pool, `(n,)`; larger is closer.
        subject: Which subject of the pool that image is of, `(n,)`, in `[0, G)`.
        trained: Whether each subject of the pool was trained on, bool `(G,)`.
        suspicious: Samples that the null flags, bool `(n,)`.
        fdr: False discovery rate among discovered subjects.
        seed: Of the random labels.

    Raises:
        CalibrationError: Without subjects on both sides, or for similarities that are not finite.

    References:
        Barber and Candès, "Controlling the false discovery rate via knockoffs", Ann. Statist. 2015 (knockoff+);
        He et al., "A theoretical foundation of target-decoy search strategy", 2015 (decoys);
        Phipson and Smyth, "Permutation p-values should never be zero", SAGMB 2010.
    """
    n_trained, n_held_out = int(trained.sum()), int((~trained).sum())
    if not (n_trained and n_held_out):
        raise CalibrationError(
            f"needed training and held-out subjects for a contrast; {n_trained} and {n_held_out} came. "
            "Pass held_out=… to fit."
        )
    if not similarity.isfinite().all():
        raise CalibrationError("needed finite similarities for a contrast; NaN or infinity came.")
    evidence, matched = _evidence(similarity.to(torch.float64), subject)
    labels = trained[matched]
    threshold, leaked = _knockoff_plus(evidence, labels, n_trained / (1 + n_held_out), fdr)
    in_train = trained[subject]
    return TargetDecoy(
        p_value=_permutation_p_value(evidence, labels, trained, seed),
        least=_all_trained(len(subject[suspicious].unique()), n_trained, n_held_out),
        in_train=in_train,
        flagged=in_train & (similarity >= threshold),
        leaked=leaked,
        expected_share=n_trained / len(trained),
        fdr=fdr,
    )


def _evidence(similarity: Tensor, subject: Tensor) -> tuple[Tensor, Tensor]:
    """Highest similarity per matched subject, and which subject, from the highest downwards."""
    matched, place = subject.unique(return_inverse=True)
    highest = similarity.new_full((len(matched),), -torch.inf).scatter_reduce(0, place, similarity, "amax")
    order = highest.argsort(descending=True, stable=True)
    return highest[order], matched[order]


def _knockoff_plus(evidence: Tensor, trained: Tensor, ratio: float, fdr: float) -> tuple[float, int]:
    """Lowest evidence at which the estimated share of false discoveries is at most `fdr`, and the discoveries."""
    decoys, targets = (~trained).cumsum(0), trained.cumsum(0)
    estimate = (1 + decoys).to(torch.float64) * ratio / targets.clamp_min(1)
    # Equal evidence stands or falls together.
    last_of_tie = torch.cat([evidence[1:] < evidence[:-1], torch.ones(1, dtype=torch.bool)])
    good = (at_most(estimate, fdr) & (targets > 0) & last_of_tie).nonzero().flatten()
    if len(good) == 0:
        return torch.inf, 0
    return float(evidence[good[-1]]), int(targets[good[-1]])


def _permutation_p_value(evidence: Tensor, labels: Tensor, trained: Tensor, seed: int) -> float:
    """Monte Carlo p-value of the labels of the matched subjects, drawn without replacement from those of the pool."""
    excess = (evidence - evidence.median()).clamp_min(0)
    weight = 1 + (excess / robust_std(evidence).clamp_min(1.4826 * TIE)).square()
    observed = float(weight @ labels.to(torch.float64))
    generator = torch.Generator().manual_seed(seed)
    pool = trained.to(torch.float64)
    at_least = 0
    for _ in range(DRAWS):
        drawn = pool[torch.randperm(len(pool), generator=generator)[: len(weight)]]
        at_least += float(weight @ drawn) >= observed * (1 - 1e-9)
    return (1 + at_least) / (1 + DRAWS)


def _all_trained(n: int, n_trained: int, n_held_out: int) -> float:
    """Probability that n subjects drawn from the pool are all trained on."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(n - 1, n_trained + n_held_out, n_trained, n)) if n else 1.0
