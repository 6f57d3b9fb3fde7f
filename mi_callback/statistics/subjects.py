"""Whose image is it? Subjects are the unit of evidence: their numbers, weights, samples and folds."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from mi_callback.types import Subjects


def numbered(subjects: Subjects) -> Tensor:
    """Number of the subject of each image, from 0, in the order of their first images; `(n,)`."""
    number = {subject: i for i, subject in enumerate(dict.fromkeys(subjects))}
    return torch.tensor([number[subject] for subject in subjects])


def subject_weights(subjects: Subjects | None, n: int) -> Tensor:
    """1 / (number of images of the same subject) per image, float64; ones without subjects."""
    if subjects is None:
        return torch.ones(n, dtype=torch.float64)
    number = numbered(subjects)
    return 1 / torch.bincount(number).to(torch.float64)[number]


def images_of_same_subjects(rows: Sequence[int], subjects: Sequence[str] | None, n: int) -> Tensor:
    """Images of any subject that one of `rows` is of, bool `(n,)`; these rows alone where subjects are unknown."""
    if subjects is None:
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[list(rows)] = True
        return chosen
    people = {subjects[i] for i in rows}
    return torch.tensor([subject in people for subject in subjects])


def merge_subjects(subjects: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A subject per image, where linked subjects, chains included, have become one."""
    parent = {subject: subject for subject in subjects}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            subject = parent[subject]
        return subject

    for one, other in pairs:
        parent[root(other)] = root(one)
    return [root(subject) for subject in subjects]


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
