"""The target-decoy contrast: are samples closer to people trained on than to people held out? It needs no null.

Samples are looked up in a pool of training and held-out images that does not say which is which. If the generator
knows nothing of *which* of these people it was trained on, the labels "trained" and "held out" are exchangeable among
the subjects of the pool, whatever its samples look like: too smooth, too sharp, collapsed, near-duplicates of each
other. So subjects are the unit, and nothing is assumed of the samples.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import TIE, at_most
from mi_callback.statistics.outliers import robust_std
from mi_callback.types import Similarity

DRAWS = 1999
"""Random labellings behind a p-value, which is thus at least 1 / 2000."""


@dataclass(frozen=True)
class TargetDecoy:
    """Result for n samples looked up in a pool of G_T training and G_H held-out subjects.

    Attributes:
        p_value: How often random labels make the matched subjects look as trained on as they are; exact for a generator
            that does not depend on who of the pool was trained on; at least 1 / (draws + 1).
        least: The smallest p-value that the number of flagged people allows: all of them trained on, by chance.
        in_train: Whether the closest image of the pool to each sample is a training image.
        flagged: Whether the sample counts as a copy of a training subject at false discovery rate `fdr` *of subjects*
            (knockoff+).
        leaked: Number of training subjects so discovered.
        expected_share: G_T / (G_T + G_H), the share of `in_train` subjects to expect of a generator that copies nobody.
        fdr: The rate asked for.
    """

    p_value: float
    least: float
    in_train: Bool[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    leaked: int
    expected_share: float
    fdr: float


class _Evidence(NamedTuple):
    """Highest similarity per matched subject, and which subject, from the highest downwards."""

    similarity: Tensor
    subject: Tensor


class Discoveries(NamedTuple):
    """Lowest evidence at which a subject is discovered (infinite where none is), and the number discovered."""

    threshold: float
    n: int


def target_decoy_contrast(
    similarity: Similarity,
    subject: Int[Tensor, " n"],
    trained: Bool[Tensor, " subjects"],
    suspicious: Bool[Tensor, " n"],
    fdr: float = 0.1,
    seed: int = 0,
    draws: int = DRAWS,
) -> TargetDecoy:
    r"""Compare the evidence against training subjects with that against held-out subjects.

    The evidence :math:`e_g` against subject g is the highest similarity of a sample whose closest image in the pool is
    of that subject. Subjects are discovered by `knockoff_plus`, with held-out subjects as decoys. The p-value is that
    of a permutation test of the labels, whose statistic is a sum over matched training subjects:

    .. math:: T = \sum_{g \, \mathrm{trained}} \left( 1 +
              \left( \frac{\max(0, e_g - \mathrm{median})}{\hat\sigma} \right)^2 \right)

    with the median and the robust standard deviation of the evidence.

    Copies of slices that the pool does not hold count for whom they resemble most.

    Args:
        similarity: To the closest image of the pool; larger is closer.
        subject: Which subject of the pool that image is of, in `[0, subjects)`.
        trained: Whether each subject of the pool was trained on.
        suspicious: Samples that the null flags.
        fdr: False discovery rate among discovered subjects.
        seed: Of the random labels.
        draws: Number of random labellings.

    Returns:
        A small `p_value` means that samples are closer to training subjects; `flagged` says which.

    Raises:
        CalibrationError: Without subjects on both sides, or for similarities that are not finite.

    References:
        Barber and Candès, "Controlling the false discovery rate via knockoffs", Ann. Statist. 2015 (knockoff+);
        He et al., "A theoretical foundation of target-decoy search strategy", 2015 (decoys);
        Phipson and Smyth, "Permutation p-values should never be zero", SAGMB 2010.

    Example:
        >>> trained = torch.arange(40) < 20
        >>> copies = torch.arange(15)  # each closest to another training subject
        >>> found = target_decoy_contrast(torch.full((15,), 0.9), copies, trained, torch.ones(15).bool())
        >>> found.p_value <= 0.05, found.leaked, found.expected_share
        (True, 15, 0.5)
    """
    _check(similarity, trained)
    n_trained, n_held_out = int(trained.sum()), int((~trained).sum())
    evidence = _evidence(similarity.to(torch.float64), subject)
    labels = trained[evidence.subject]
    found = knockoff_plus(evidence.similarity, labels, n_trained / (1 + n_held_out), fdr)
    in_train = trained[subject]
    return TargetDecoy(
        p_value=_permutation_p_value(evidence.similarity, labels, trained, draws, seed),
        least=chance_of_all_trained(len(subject[suspicious].unique()), n_trained, n_held_out),
        in_train=in_train,
        flagged=in_train & (similarity >= found.threshold),
        leaked=found.n,
        expected_share=n_trained / len(trained),
        fdr=fdr,
    )


def knockoff_plus(evidence: Float[Tensor, " g"], trained: Bool[Tensor, " g"], ratio: float, fdr: float) -> Discoveries:
    r"""Discover trained subjects from the highest evidence downwards, with held-out ones as decoys.

    .. math:: \frac{\rho \, (1 + \#\{\mathrm{held~out~so~far}\})}{\#\{\mathrm{trained~so~far}\}} \leq q

    with the ratio ρ and the false discovery rate q; down to the lowest evidence where this holds. Equal evidence
    stands or falls together.

    Args:
        evidence: Against each subject, descending.
        trained: Whether each was trained on.
        ratio: ρ; for sides of unequal size G_T / (1 + G_H).
        fdr: q.

    References:
        Barber and Candès, Ann. Statist. 2015.

    Example:
        >>> evidence = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
        >>> trained = torch.tensor([True, True, False, True])
        >>> knockoff_plus(evidence, trained, ratio=1.0, fdr=0.5)
        Discoveries(threshold=0.8, n=2)
    """
    decoys, targets = (~trained).cumsum(0), trained.cumsum(0)
    estimate = (1 + decoys).to(torch.float64) * ratio / targets.clamp_min(1)
    last_of_tie = torch.cat([evidence[1:] < evidence[:-1], torch.ones(1, dtype=torch.bool)])
    good = (at_most(estimate, fdr) & (targets > 0) & last_of_tie).nonzero().flatten()
    if len(good) == 0:
        return Discoveries(math.inf, 0)
    return Discoveries(float(evidence[good[-1]]), int(targets[good[-1]]))


def chance_of_all_trained(n: int, n_trained: int, n_held_out: int) -> float:
    r"""Probability that n subjects drawn from the pool at random are all trained on.

    .. math:: \frac{\binom{G_T}{n}}{\binom{G_T + G_H}{n}}

    Args:
        n: Subjects drawn.
        n_trained: G_T, training subjects in the pool.
        n_held_out: G_H, held-out subjects in it.

    Example:
        >>> round(chance_of_all_trained(2, n_trained=5, n_held_out=5), 4)
        0.2222
    """
    from scipy.stats import hypergeom

    return float(hypergeom.sf(n - 1, n_trained + n_held_out, n_trained, n)) if n else 1.0


def _check(similarity: Tensor, trained: Tensor) -> None:
    n_trained, n_held_out = int(trained.sum()), int((~trained).sum())
    if not (n_trained and n_held_out):
        raise CalibrationError(
            f"needed training and held-out subjects for a contrast; {n_trained} and {n_held_out} came. "
            "Pass held_out=… to fit."
        )
    if not similarity.isfinite().all():
        raise CalibrationError("needed finite similarities for a contrast; NaN or infinity came.")


def _evidence(similarity: Tensor, subject: Tensor) -> _Evidence:
    matched, place = subject.unique(return_inverse=True)
    highest = similarity.new_full((len(matched),), -torch.inf).scatter_reduce(0, place, similarity, "amax")
    order = highest.argsort(descending=True, stable=True)
    return _Evidence(highest[order], matched[order])


def _permutation_p_value(evidence: Tensor, labels: Tensor, trained: Tensor, draws: int, seed: int) -> float:
    """Monte Carlo p-value of the labels of the matched subjects, drawn without replacement from those of the pool."""
    excess = (evidence - evidence.median()).clamp_min(0)
    weight = 1 + (excess / robust_std(evidence).clamp_min(1.4826 * TIE)).square()
    observed = float(weight @ labels.to(torch.float64))
    generator = torch.Generator().manual_seed(seed)
    pool = trained.to(torch.float64)
    at_least = 0
    for _ in range(draws):
        drawn = pool[torch.randperm(len(pool), generator=generator)[: len(weight)]]
        at_least += float(weight @ drawn) >= observed * (1 - 1e-9)
    return (1 + at_least) / (1 + draws)
