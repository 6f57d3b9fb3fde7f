"""Real images that were not trained on, as seen from the training set: the three nulls, and what must not leak in."""

import warnings
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mi_callback.calibration import Null
from mi_callback.errors import CalibrationError, DataError
from mi_callback.features import Features
from mi_callback.retrieval import Reference
from mi_callback.types import Subjects, Thumbnails

FOLDS = 30
"""Folds of the cross-fitted null at most; each needs its own whitening and index."""

HALVES = 10
"""Random halves of the paper's null."""

Resemble = Callable[[Features, Reference, Thumbnails, str | None], Tensor]
"""Deciding similarity of queries to a reference, with its thumbnails and the label of a progress bar."""

FitReference = Callable[[Features], Reference]


def held_out_null(
    held_out: Features,
    train: Features,
    reference: Reference,
    resemble: Resemble,
    size: int | None,
    seed: int,
    bar: bool,
) -> Null:
    """Held-out images searched in the same index as generated ones will be."""
    chosen = held_out.where(thin(held_out.subjects, len(held_out), size, seed))
    similarity = resemble(chosen, reference, train.thumbnails, "calibrating" if bar else None)
    return Null(similarity, chosen.subjects, "held_out")


def cross_fit_null(
    train: Features, fit_reference: FitReference, resemble: Resemble, size: int | None, seed: int, bar: bool
) -> Null:
    """Every training subject against the others: whitening and index refitted without its fold.

    Training images that are identical count as one subject: looked up without each other they would be copies of each
    other, and real copies would look normal.

    Raises:
        CalibrationError: For fewer than two training subjects.
    """
    groups = merge_identical(train)
    if train.subjects is not None and (merged := len(set(train.subjects)) - len(set(groups))):
        warnings.warn(
            f"{merged} training subjects hold an image identical to one of another subject; subjects that share images "
            "count as one in the null. Are they the same person?",
            stacklevel=2,
        )
    fold = folds(groups, FOLDS, seed)
    if int(fold.max()) < 1:
        raise CalibrationError(
            "needed at least 2 training subjects for the cross-fitted null; 1 came. Pass held-out images."
        )
    kept = torch.zeros(len(train), dtype=torch.bool)
    kept[thin(groups, len(train), size, seed)] = True
    similarity, subjects = [], []
    for k in tqdm(fold.unique(), desc="calibrating", unit="fold", disable=not bar, leave=False):
        queries = ((fold == k) & kept).nonzero().flatten()
        if len(queries) == 0:
            continue
        rest = train.in_pose(0).where(fold != k)
        similarity.append(resemble(train.where(queries), fit_reference(rest), rest.thumbnails, None))
        subjects += [groups[i] for i in queries.tolist()]
    distinct = len(set(subjects)) == len(subjects) and train.subjects is None
    return Null(torch.cat(similarity), None if distinct else subjects, "cross_fit")


def train_halves_null(
    train: Features, whole: Reference, resemble: Resemble, whitening: str, size: int | None, seed: int, bar: bool
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
    ids = train.subjects or [f"row {i}" for i in range(len(train))]
    most = None if size is None else max(1, size // HALVES)
    similarity, subjects = [], []
    for _ in tqdm(range(HALVES), desc="calibrating", unit="half", disable=not bar, leave=False):
        order = torch.randperm(len(train), generator=generator)
        rows, other = order[: len(train) // 2][:most], train.in_pose(0).where(order[len(train) // 2 :])
        similarity.append(resemble(train.where(rows), whole.over(other), other.thumbnails, None))
        subjects += [ids[i] for i in rows.tolist()]
    return Null(torch.cat(similarity), subjects, "train_halves")


def thin(subjects: Subjects | None, n: int, most: int | None, seed: int = 0) -> Tensor:
    """At most `most` positions out of n, ascending: drawn at random, every subject giving as equally as it can.

    A fixed place within a subject (its middle slice, say) would not stand for the others.
    """
    if most is None or n <= most:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(seed)
    groups: dict[Hashable, list[int]] = {}
    for i in torch.randperm(n, generator=generator).tolist():
        groups.setdefault(i if subjects is None else subjects[i], []).append(i)
    # Rounds: the first image of every subject, then the second, until the budget is spent.
    rounds = sorted((place, i) for rows in groups.values() for place, i in enumerate(rows))
    last = rounds[most - 1][0]
    whole, partial = [i for p, i in rounds if p < last], [i for p, i in rounds if p == last]
    drawn = torch.randperm(len(partial), generator=generator)[: most - len(whole)].tolist()
    return torch.tensor(sorted(whole + [partial[k] for k in drawn]))


def folds(groups: Sequence[Hashable], most: int, seed: int) -> Tensor:
    """Fold of each image, groups kept whole, `(n,)`; as many folds as groups, at most `most`."""
    unique = list(dict.fromkeys(groups))
    shuffled = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    fold_of = {unique[u]: position % most for position, u in enumerate(shuffled)}
    return torch.tensor([fold_of[group] for group in groups])


def merge_identical(features: Features) -> list[str]:
    """A subject per image, where subjects that share an identical image have become one."""
    ids = features.subjects or [f"row {i}" for i in range(len(features))]
    parent = {subject: subject for subject in ids}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            subject = parent[subject]
        return subject

    owner: dict[bytes, str] = {}
    for digest, subject in zip(features.digests(), ids, strict=True):
        parent[root(subject)] = root(owner.setdefault(digest, subject))
    return [root(subject) for subject in ids]


def refuse_leaks(train: Features, held_out: Features) -> None:
    """A training subject, or the very same image, among the held-out ones makes copies look normal.

    Raises:
        DataError: If there is one. Positions are named, not ids: a logger may carry the message away.
    """
    shared = set(train.subjects or ()) & set(held_out.subjects or ())
    if shared:
        first = next(i for i, subject in enumerate(held_out.subjects or ()) if subject in shared)
        raise DataError(
            f"needed held-out subjects that were not trained on; {len(shared)} are on both sides, e.g. that of "
            f"held-out image {first}. Split by subject (mi_callback.images.split_by_subject), or calibrate without: "
            "null='cross_fit'."
        )
    known = set(train.digests())
    same = [i for i, digest in enumerate(held_out.digests()) if digest in known]
    if same:
        raise DataError(
            f"needed held-out images that were not trained on; {len(same)} of {len(held_out)} are in the training set "
            f"too, e.g. held-out image {same[0]}. Remove them, or calibrate without: null='cross_fit'."
        )
