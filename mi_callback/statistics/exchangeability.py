"""Are held-out people like training people? A permutation test of people, and in which statistics they differ.

A null of held-out people says how similar a novel image of *such* people is. If they come from another scanner, another
site or another preprocessing, novel images look too novel and copies too rare, or the other way round. If training
and held-out people are exchangeable, nothing that can be computed of them tells the sides apart: that is tested here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.errors import CalibrationError
from mi_callback.statistics.conformal import at_most
from mi_callback.statistics.subjects import numbered, show_alike
from mi_callback.types import Subjects

LABELLINGS = 2000
"""Ways to deal people out to the sides that are compared with the true one; all of them where there are no more."""

MOST_PEOPLE = 400
"""People of a side that are looked at, at most, drawn at random: the cost grows with the square of their number."""

RIDGE = 0.01
"""Weight of the identity in the covariance of Hotelling's statistic. It is there for differences in directions in which
people hardly vary; the other two see the rest. Among 60 brains, 20 of them held out and changed by a gamma of .9, it
alone is below .01 in 45 % of 40 splits; with a weight of .9 in 20 %."""

EQUAL = 1e-9
"""Difference, in units of the largest value, below which two values of a statistic are equal: mirrored labellings are,
but for rounding."""


class Aspect(StrEnum):
    """What of the images of a person is compared. Members are strings.

    Attributes:
        LEVEL: Their mean.
        SPREAD: Their standard deviation; of people with one image none.
    """

    LEVEL = "level"
    SPREAD = "spread"


@dataclass(frozen=True)
class Difference:
    """How one statistic differs between the people of the two sides.

    Attributes:
        name: Of the statistic.
        aspect: Whether its level or its spread within a person.
        train: Median over training people.
        held_out: Median over held-out people.
        effect: Difference of mean normal scores, held-out less training: about that of the means in standard
            deviations among people.
        p_value: Adjusted for the number of statistics (family-wise, step-down); small where the sides differ.
    """

    name: str
    aspect: Aspect
    train: float
    held_out: float
    effect: float
    p_value: float


@dataclass(frozen=True)
class Exchangeability:
    """Whether held-out people are exchangeable with training people.

    Attributes:
        p_value: How often people dealt out at random differ as much; small where the sides differ.
        least: No p-value of so few people is smaller: one over the number of ways to deal them out to the sides, twice
            that where the sides are equally large. A level below it cannot be reached.
        differences: Of the named statistics, the clearest first.
        n_train: Training people that were looked at.
        n_held_out: Held-out people that were looked at.
    """

    p_value: float
    least: float
    differences: tuple[Difference, ...]
    n_train: int
    n_held_out: int

    def rejects(self, level: float) -> bool:
        """Whether the sides differ at this level: people of one side are then called different with at most this
        probability.
        """
        return at_most(self.p_value, level)

    def can_reject(self, level: float) -> bool:
        """Whether there are enough people for p ≤ level to happen at all."""
        return at_most(self.least, level)

    def differing(self, level: float) -> tuple[Difference, ...]:
        """Named statistics that differ, each one wrongly with at most this probability for all of them together."""
        return tuple(difference for difference in self.differences if at_most(difference.p_value, level))


class _People(NamedTuple):
    """Level and spread of each coordinate over the images of each of G people; NaN where there is no spread."""

    values: Tensor  # (G, 2 k): levels, then spreads
    held_out: Tensor  # bool (G,)


def compare_people(
    held_out: Bool[Tensor, " n"],
    subjects: Subjects | None,
    statistics: Mapping[str, Float[Tensor, " n"]],
    features: Float[Tensor, "n d"] | None = None,
    labellings: int = LABELLINGS,
    seed: int = 0,
    among: Int[Tensor, " m"] | None = None,
) -> Exchangeability:
    r"""Test whether held-out people are exchangeable with training people.

    Of each person, the mean and the standard deviation over the images are taken of every statistic and every feature:
    2 k coordinates. As many images are looked at of each person on one side as on the other (`subjects.show_alike`).
    Every coordinate is replaced by its normal scores among all people, so that outliers and scales do not matter. With
    the scores :math:`z_g` of person g and the difference of means

    .. math:: \delta = \frac{1}{G_H} \sum_{g \, \mathrm{held~out}} z_g - \frac{1}{G_T} \sum_{g \, \mathrm{trained}} z_g

    three statistics are made, for people can differ in one coordinate, in many, or in how coordinates go together:

    .. math:: T_1 = \max_j \frac{|\delta_j|}{s_j}

    .. math:: T_2 = \delta^T \left( (1 - w) C + w I \right)^{-1} \delta

    .. math:: T_3 = \frac{2}{G_H G_T} \sum_{g, h} d_{gh} - \frac{1}{G_H^2} \sum_{g, g'} d_{gg'}
              - \frac{1}{G_T^2} \sum_{h, h'} d_{hh'}

    the largest standardised difference; Hotelling's with the shrunk covariance of all people, w = `RIDGE`; and the
    energy distance of held-out people g from training people h, with Euclidean distances d. People are dealt out to
    sides of the same sizes again and again. The p-value of each statistic is its rank among all labellings; the
    smallest of the three is compared with that of every other labelling, which gives *one* p-value, exact for
    exchangeable people whatever their distribution. Named statistics are told apart by the largest standardised
    difference among those that are not yet told apart (Westfall and Young's step-down max-T).

    Args:
        held_out: Whether each image is held out; the others are training images.
        subjects: Subject of each image, None where they are unknown: then every image is its own person.
        statistics: Values of each image by the name of the statistic: noise, sharpness, contrast.
        features: Features of each image, which have no names and join in the p-value alone.
        labellings: Labellings at most, the true one included; all there are where these are no more.
        seed: Of the images drawn, and of the labellings.
        among: Rows that `images_to_compare` chose: statistics and features are of these images alone, in this order.
            They are of all images when None.

    Returns:
        A small `p_value` says that the sides differ; `differing` in what. Where `can_reject` is False it says nothing.

    Raises:
        CalibrationError: Without people on both sides, for a person on both, for values that are not finite, do not
            vary or are not as many as images, or without any value.

    References:
        Westfall and Young, "Resampling-based multiple testing", 1993 (max-T); Székely and Rizzo, "Energy statistics",
        J. Statist. Plan. Infer. 2013; Chen, Paul, Prentice and Wang, "A regularized Hotelling's T² test", J. Am.
        Statist. Assoc. 2011; Pesarin and Salmaso, "Permutation tests for complex data", 2010 (the minimum of
        p-values); Phipson and Smyth, SAGMB 2010 (the true labelling counts).

    Example:
        >>> noise = torch.cat([torch.linspace(1, 2, 40), torch.linspace(3, 4, 40)])
        >>> held_out = torch.arange(80) >= 40
        >>> found = compare_people(held_out, None, {"noise": noise, "contrast": torch.arange(80.0) % 7})
        >>> found.rejects(0.01), [difference.name for difference in found.differing(0.05)]
        (True, ['noise'])
        >>> few = compare_people(held_out[38:42], None, {"noise": noise[38:42]})
        >>> round(few.least, 4), few.can_reject(0.05)
        (0.3333, False)
    """
    names = list(statistics)
    values = _coordinates(statistics, features, len(held_out if among is None else among))
    if among is None:
        among = images_to_compare(held_out, subjects, seed)
        values = values[among]
    people = _people(values, held_out, subjects, among)
    labels = _labellings(people.held_out, labellings, seed)
    scores = _normal_scores(people.values)
    varies = scores.std(dim=0) > EQUAL
    if not varies.any():
        raise CalibrationError("needed statistics or features that vary among people; all of them are constant.")
    shift = _differences_of_means(labels, scores)
    standardised = shift.abs() / scores.std(dim=0).clamp_min(EQUAL)
    parts = [
        standardised[:, varies].amax(dim=1),
        _hotelling(labels, scores[:, varies]),
        _energy(labels, scores[:, varies]),
    ]
    least_p = torch.stack([_p_values(part) for part in parts]).amin(dim=0)
    n, n_held_out = len(people.held_out), int(people.held_out.sum())
    return Exchangeability(
        p_value=float(_p_values(-least_p)[0]),
        least=_least(n, n_held_out, labellings),
        differences=_differences(names, people, shift[0], standardised, varies),
        n_train=n - n_held_out,
        n_held_out=n_held_out,
    )


def images_to_compare(held_out: Bool[Tensor, " n"], subjects: Subjects | None, seed: int = 0) -> Int[Tensor, " m"]:
    """Rows of the images that `compare_people` looks at: of at most `MOST_PEOPLE` people of a side, as many each on
    either side.

    Args:
        held_out, subjects, seed: As there.

    Raises:
        CalibrationError: Without people on both sides, or for a person on both.

    Example:
        >>> images_to_compare(torch.arange(7) >= 5, ["a", "a", "a", "b", "b", "c", "c"]).tolist()
        [0, 1, 3, 4, 5, 6]
    """
    held_out = held_out.cpu()
    ids = _ids(held_out, subjects)
    sides = set(zip(ids, held_out.tolist(), strict=True))
    if both := len(sides) - len(set(ids)):
        raise CalibrationError(f"needed people who are on one side alone; {both} are on both. Split by subject.")
    train, novel = (_some_people(side.nonzero().flatten(), ids, seed) for side in (~held_out, held_out))
    if not (len(train) and len(novel)):
        raise CalibrationError(
            f"needed training and held-out people to compare; {len(train)} training and {len(novel)} held-out images "
            "came."
        )
    shown = show_alike([ids[i] for i in train.tolist()], [ids[i] for i in novel.tolist()], seed)
    return torch.cat([train[shown.train], novel[shown.held_out]])


def _coordinates(statistics: Mapping[str, Tensor], features: Tensor | None, n: int) -> Tensor:
    """Statistics, then features, of each image `(n, k)`."""
    columns = {**statistics, **({} if features is None else {"features": features})}
    for name, values in columns.items():
        if len(values) != n:
            raise CalibrationError(f"needed one value of {name} per image ({n}); {len(values)} came.")
        if not values.isfinite().all():
            raise CalibrationError(f"needed finite {name} to compare people by; NaN or infinity came.")
    if not columns:
        raise CalibrationError("needed statistics or features to compare people by; none came.")
    return torch.cat([values.detach().cpu().to(torch.float64).view(n, -1) for values in columns.values()], dim=1)


def _people(values: Tensor, held_out: Tensor, subjects: Subjects | None, rows: Tensor) -> _People:
    """Level and spread of each person, of the values of the images at these rows."""
    held_out = held_out.cpu()
    ids = _ids(held_out, subjects)
    number = numbered([ids[i] for i in rows.tolist()])
    side_of = torch.zeros(int(number.max()) + 1, dtype=torch.bool)
    side_of[number] = held_out[rows]
    return _People(_levels_and_spreads(values, number), side_of)


def _ids(held_out: Tensor, subjects: Subjects | None) -> list[str]:
    """A person for each image."""
    ids = [str(i) for i in range(len(held_out))] if subjects is None else list(subjects)
    if len(ids) != len(held_out):
        raise CalibrationError(f"needed one subject per image ({len(held_out)}); {len(ids)} came.")
    return ids


def _some_people(rows: Tensor, ids: list[str], seed: int) -> Tensor:
    """Images of at most `MOST_PEOPLE` people of a side."""
    own = list(dict.fromkeys(ids[i] for i in rows.tolist()))
    if len(own) <= MOST_PEOPLE:
        return rows
    drawn = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))[:MOST_PEOPLE].tolist()
    people = {own[i] for i in drawn}
    return torch.tensor([i for i in rows.tolist() if ids[i] in people])


def _levels_and_spreads(values: Tensor, number: Tensor) -> Tensor:
    """Mean of each column over the images of each person, then standard deviation, `(G, 2 k)`."""
    n_people = int(number.max()) + 1
    count = torch.bincount(number).to(torch.float64)[:, None]
    empty = values.new_zeros(n_people, values.shape[1])
    level = empty.index_add(0, number, values) / count
    square = empty.index_add(0, number, (values - level[number]).square())
    spread = (square / (count - 1)).sqrt()  # 0 / 0 for a person with one image
    # What differs by rounding alone is equal.
    step = (EQUAL * values.abs().amax(dim=0)).clamp_min(1e-300)
    return torch.cat([(part / step).round() * step for part in (level, spread)], dim=1)


def _normal_scores(values: Tensor) -> Tensor:
    """Normal quantile of the rank of each value in its column, ties sharing theirs, centred; 0 where it is NaN."""
    present = values.isfinite()
    columns = values.where(present, torch.inf).T.contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns).T
    up_to = torch.searchsorted(ordered, columns, right=True).T
    share = (below + up_to).to(torch.float64) / (2 * present.sum(dim=0).clamp_min(1))
    scores = torch.special.ndtri(share).where(present, 0)
    return scores - scores.mean(dim=0)


def _labellings(held_out: Tensor, most: int, seed: int) -> Tensor:
    """Who is held out under each labelling, 1 or 0, `(N, G)`; the true one first, and all where there are no more."""
    n, k = len(held_out), int(held_out.sum())
    if math.comb(n, k) <= most:
        chosen = torch.tensor(list(combinations(range(n), k)))
        labels = torch.zeros(len(chosen), n, dtype=torch.float64).scatter_(1, chosen, 1)
        others = labels[(labels != held_out.to(torch.float64)).any(dim=1)]
    else:
        order = torch.rand(most - 1, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).argsort()
        others = torch.zeros(most - 1, n, dtype=torch.float64).scatter_(1, order[:, :k], 1)
    return torch.cat([held_out.to(torch.float64)[None], others])


def _differences_of_means(labels: Tensor, scores: Tensor) -> Tensor:
    """Mean score of held-out people less that of the others under each labelling, `(N, k)`."""
    held_out = labels.sum(dim=1, keepdim=True)
    return (labels / held_out - (1 - labels) / (labels.shape[1] - held_out)) @ scores


def _hotelling(labels: Tensor, scores: Tensor) -> Tensor:
    """Hotelling's statistic with a shrunk covariance of each labelling, `(N,)`, in the principal axes of the scores."""
    left, singular, _ = torch.linalg.svd(scores, full_matrices=False)
    variance = (1 - RIDGE) * singular.square() / (len(scores) - 1) + RIDGE
    return (_differences_of_means(labels, left * singular).square() / variance).sum(dim=1)


def _energy(labels: Tensor, scores: Tensor) -> Tensor:
    """Energy distance between the sides under each labelling, `(N,)`."""
    distance = torch.cdist(scores, scores, compute_mode="donot_use_mm_for_euclid_dist")
    held_out, train = labels / labels.sum(dim=1, keepdim=True), 1 - labels
    train = train / train.sum(dim=1, keepdim=True)
    # 2 h'Dt − h'Dh − t'Dt = −(h − t)'D(h − t)
    apart = held_out - train
    return -((apart @ distance) * apart).sum(dim=1)


def _p_values(statistic: Tensor) -> Tensor:
    """Share of labellings whose statistic is at least as large, of each of them, `(N,)`."""
    ordered = statistic.sort().values
    below = torch.searchsorted(ordered, statistic - EQUAL * statistic.abs().amax())
    return (len(statistic) - below).to(torch.float64) / len(statistic)


def _least(n: int, n_held_out: int, most: int) -> float:
    """The smallest p-value: that of a labelling which is more extreme than all others, but for its mirror image."""
    alike = 2 if 2 * n_held_out == n else 1
    return max(alike / math.comb(n, n_held_out), 1 / most)


def _differences(
    names: list[str], people: _People, shift: Tensor, standardised: Tensor, varies: Tensor
) -> tuple[Difference, ...]:
    """Named statistics, the clearest difference first, with step-down adjusted p-values."""
    k = people.values.shape[1] // 2
    known = [(i, name, aspect) for a, aspect in enumerate(Aspect) for i, name in enumerate(names, start=a * k)]
    known = [(i, name, aspect) for i, name, aspect in known if varies[i]]
    known.sort(key=lambda entry: -round(float(standardised[0, entry[0]]), 9))  # those that are equal stay in order
    p_values = _step_down(standardised[:, [i for i, _, _ in known]])
    train, held_out = (people.values[side].nanmedian(dim=0).values for side in (~people.held_out, people.held_out))
    return tuple(
        Difference(name, aspect, float(train[i]), float(held_out[i]), float(shift[i]), p)
        for (i, name, aspect), p in zip(known, p_values, strict=True)
    )


def _step_down(statistics: Tensor) -> list[float]:
    """Adjusted p-values of columns in the order of their first row, the largest first (Westfall and Young 1993)."""
    if statistics.shape[1] == 0:
        return []
    largest_of_rest = statistics.flip(1).cummax(dim=1).values.flip(1)
    at_least = largest_of_rest >= statistics[0] - EQUAL
    return at_least.to(torch.float64).mean(dim=0).cummax(dim=0).values.tolist()
