"""Real images that were not trained on, as seen from the training set: the three nulls."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mi_callback.detection import leaks
from mi_callback.detection.matching import Match
from mi_callback.errors import CalibrationError
from mi_callback.images.progress import counted
from mi_callback.registration.copied_fraction import usual_shares
from mi_callback.retrieval.aggregation import Aggregation
from mi_callback.retrieval.duplicates import closest_strangers
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.statistics import outliers
from mi_callback.statistics.null import Null, NullKind
from mi_callback.statistics.subjects import folds, merge_subjects, subject_weights, thin
from mi_callback.types import Subjects, Thumbnails

FOLDS = 30
"""Folds of the cross-fitted null at most; each needs its own whitening and index."""

SUSPECTS = {
    True: "They are left out of the null.",
    False: "They are too many to be left out: if they look alike by nature, that would flag novel people like them. So "
    "copies may look normal, and nothing is called clean.",
}

HALVES = 10
"""Random halves of the paper's null."""

Look = Callable[[Features, Reference, Thumbnails, str | None], Match]
"""Match queries in a reference with its thumbnails and the label of a progress bar: a `Matcher`."""

FitReference = Callable[[Features], Reference]

Seen = Callable[[Tensor], Features]
"""Rows of the training images → these, as queries."""


def held_out_null(
    held_out: Features,
    train: Features,
    reference: Reference,
    look: Look,
    size: int | None,
    seed: int,
    bar: bool,
) -> Null:
    """Held-out images searched in the same index as generated ones will be."""
    chosen = held_out.where(thin(held_out.subjects, len(held_out), size, seed))
    match = look(chosen, reference, train.thumbnails, "calibrating" if bar else None)
    similarity, subjects = match.similarity, chosen.subjects
    who, people = outliers.suspects(similarity, subjects)
    kept = chosen.where(~who).subjects
    usual = _usual(match.shares[~who], kept)
    if people == 0:
        return Null(similarity, subjects, NullKind.HELD_OUT, usual=usual)
    left_out = outliers.few_enough(people, len(similarity) if subjects is None else len(set(subjects)))
    warnings.warn(
        f"{people} held-out people resemble a training image as only a copy, or the same patient under another id, "
        f"would (similarity up to {float(similarity.max()):.3f}, median {float(similarity.median()):.3f}), e.g. that "
        f"of calibration image {int(who.nonzero()[0])}. {SUSPECTS[left_out]} Are they in the training set?",
        stacklevel=2,
    )
    if left_out:
        return Null(similarity[~who], kept, NullKind.HELD_OUT, usual=usual)
    return Null(similarity, subjects, NullKind.HELD_OUT, suspects=people, usual=usual)


def cross_fit_null(
    train: Features,
    fit_reference: FitReference,
    look: Look,
    size: int | None,
    seed: int,
    bar: bool,
    seen: Seen | None = None,
) -> Null:
    """Every training subject against the others: whitening and index refitted without its fold.

    Training subjects who share an identical image count as one, and so do a few who resemble each other as only the
    same patient would: looked up without each other they would be copies of each other, and copies would look normal.

    Args:
        train: Training images.
        fit_reference: Makes whitening and index.
        look: Looks images up.
        size: Images that are looked up, at most.
        seed: Of folds and draws.
        bar: Whether there is a progress bar.
        seen: Training images as they are looked up; when None, as they are.

    Raises:
        CalibrationError: For fewer than two training subjects.
    """
    groups = leaks.merge_identical(train)
    null, same = _cross_fit(train, groups, fit_reference, look, size, seed, bar, seen or train.where)
    merged_groups = merge_subjects(groups, same)
    people = len(set(groups)) - len(set(merged_groups))
    if people and outliers.few_enough(people, len(set(groups))):
        groups = merged_groups
        null, _ = _cross_fit(train, groups, fit_reference, look, size, seed, bar, seen or train.where)
    elif people:
        warnings.warn(
            f"{people} training subjects resemble another one as only a copy, or the same patient under another id, "
            f"would. {SUSPECTS[False]}",
            stacklevel=2,
        )
        null = replace(null, suspects=people)
    if train.subjects is not None and (merged := len(set(train.ids)) - len(set(groups))):
        warnings.warn(
            f"{merged} training subjects hold an image that is, or seems to be, one of another subject; such subjects "
            "count as one in the null. Are they the same person?",
            stacklevel=2,
        )
    return null


def _cross_fit(
    train: Features,
    groups: Sequence[str],
    fit_reference: FitReference,
    look: Look,
    size: int | None,
    seed: int,
    bar: bool,
    seen: Seen,
) -> tuple[Null, list[tuple[str, str]]]:
    """The null for these groups of images, and pairs of groups that seem to be one person."""
    fold = folds(groups, FOLDS, seed)
    if int(fold.max()) < 1:
        raise CalibrationError(
            "needed at least 2 training subjects for the cross-fitted null; 1 came. Pass held-out images."
        )
    kept = torch.zeros(len(train), dtype=torch.bool)
    kept[thin(groups, len(train), size, seed)] = True
    matches, subjects, matched = [], [], []
    for k in counted(fold.unique(), "calibrating" if bar else None, "fold"):
        queries, others = ((fold == k) & kept).nonzero().flatten(), (fold != k).nonzero().flatten()
        if len(queries) == 0:
            continue
        rest = train.in_pose(0).where(others)
        matches.append(look(seen(queries), fit_reference(rest), rest.thumbnails, None))
        subjects += [groups[i] for i in queries.tolist()]
        matched += [groups[i] for i in others[matches[-1].row].tolist()]
    similarity = torch.cat([match.similarity for match in matches])
    same = [(subjects[i], matched[i]) for i in outliers.copies_in_null(similarity).nonzero().flatten().tolist()]
    distinct = len(set(subjects)) == len(subjects) and train.subjects is None
    fold_of = dict(zip(groups, fold.tolist(), strict=True))
    total, largest = len(fold_of), max(Counter(fold_of.values()).values())
    null = Null(
        similarity,
        None if distinct else subjects,
        NullKind.CROSS_FIT,
        # Its own person is absent for a generated image of a novel one too; the others of the fold are not.
        correction=(total - 1) / (total - largest),
        usual=_usual(torch.cat([match.shares for match in matches]), subjects),
    )
    return null, same


def duplicate_similarity(
    train: Features,
    held_out: Features | None,
    reference: Reference,
    fit_reference: FitReference,
    aggregation: Aggregation,
    size: int | None,
    seed: int,
) -> float:
    """Feature similarity of the two most similar novel images of different people; what is closer is a duplicate.

    Novel to the whitening, as generated images are: held-out images, or without any the training images of one half of
    the subjects under a whitening fitted on the other half. 1 where there are no two people.
    """
    novel = held_out
    if novel is None:
        groups = leaks.merge_identical(train)
        half = folds(groups, 2, seed)
        plain = train.as_they_are()  # only features of the whole image are looked at
        reference, novel = fit_reference(plain.in_pose(0).where(half == 0)), plain.where(half == 1)
    chosen = novel.where(thin(novel.subjects, len(novel), size, seed))
    closest = closest_strangers(reference, chosen, aggregation)
    closest = closest[~outliers.copies_in_null(closest)]
    return float(closest.max()) if len(closest) and float(closest.max()) > -1 else 1.0


def train_halves_null(
    train: Features, whole: Reference, look: Look, whitening: str, size: int | None, seed: int, bar: bool
) -> Null:
    """The paper's null: one random half of the training images searched in the other, whitened in-sample.

    Raises:
        CalibrationError: With in-sample ZCA or PCA of no more images than features, where it is undefined.
    """
    widest = max(features.shape[-1] for features in train.layers.values())
    if whitening in ("zca", "pca") and len(train) <= widest + 1:
        raise CalibrationError(
            f"needed more training images than features ({widest}) for null='train_halves' with in-sample whitening "
            f"{whitening!r}; {len(train)} came: all pairs would be equally similar. Use null='held_out' or 'cross_fit'."
        )
    generator = torch.Generator().manual_seed(seed)
    ids, most = train.ids, None if size is None else max(1, size // HALVES)
    matches, subjects = [], []
    for _ in counted(range(HALVES), "calibrating" if bar else None, "half"):
        order = torch.randperm(len(train), generator=generator)
        rows, other = order[: len(train) // 2][:most], train.in_pose(0).where(order[len(train) // 2 :])
        matches.append(look(train.where(rows), whole.over(other), other.thumbnails, None))
        subjects += [ids[i] for i in rows.tolist()]
    similarity = torch.cat([match.similarity for match in matches])
    usual = _usual(torch.cat([match.shares for match in matches]), subjects)
    return Null(similarity, subjects, NullKind.TRAIN_HALVES, usual=usual)


def _usual(shares: Tensor, subjects: Subjects | None) -> Tensor | None:
    """`usual_shares` of a null, every subject weighing the same; None where nothing was aligned, or is left."""
    if len(shares) == 0 or shares.isnan().any():
        return None
    return usual_shares(shares, subject_weights(subjects, len(shares)))
