"""Whose image is it? Subjects are the unit of evidence: their numbers, weights, samples and folds."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.types import Subjects

RANKS = 1000
"""Quantiles at which numbers of images of the subjects of two sides are matched."""


class Sides(NamedTuple):
    """Positions of images among those of each side, ascending."""

    train: Int[Tensor, " a"]
    held_out: Int[Tensor, " b"]


def numbered(subjects: Subjects) -> Int[Tensor, " n"]:
    """Number of the subject of each image, from 0, in the order of their first images.

    Example:
        >>> numbered(["b", "a", "b"]).tolist()
        [0, 1, 0]
    """
    number = {subject: i for i, subject in enumerate(dict.fromkeys(subjects))}
    return torch.tensor([number[subject] for subject in subjects])


def subject_weights(subjects: Subjects | None, n: int) -> Float[Tensor, " n"]:
    r"""Weight of each image, so that every subject weighs 1 whatever its number of images.

    .. math:: w_{gj} = \frac{1}{n_g}

    for image j of subject g, which has :math:`n_g` images.

    Args:
        subjects: Subject of each image; None where they are unknown: then every image is its own subject.
        n: Number of images.

    Returns:
        float64 weights in (0, 1]; they sum to the number of subjects.

    Example:
        >>> subject_weights(["a", "a", "b"], 3).tolist()
        [0.5, 0.5, 1.0]
    """
    if subjects is None:
        return torch.ones(n, dtype=torch.float64)
    number = numbered(subjects)
    return 1 / torch.bincount(number).to(torch.float64)[number]


def images_of_same_subjects(rows: Sequence[int], subjects: Subjects | None, n: int) -> Bool[Tensor, " n"]:
    """Which of n images are of any subject that one of `rows` is of; these rows alone where subjects are unknown.

    Example:
        >>> images_of_same_subjects([0], ["a", "b", "a"], 3).tolist()
        [True, False, True]
    """
    if subjects is None:
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[list(rows)] = True
        return chosen
    people = {subjects[i] for i in rows}
    return torch.tensor([subject in people for subject in subjects])


def merge_subjects(subjects: Subjects, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Make linked subjects one: the same person under several ids.

    Args:
        subjects: Subject of each image.
        pairs: Subjects that are linked; chains of links count.

    Returns:
        A subject per image; those that are linked have become the same one.

    Example:
        >>> merge_subjects(["a", "b", "c", "d"], [("a", "b"), ("b", "d")])
        ['a', 'a', 'c', 'a']
    """
    parent = {subject: subject for subject in subjects}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            subject = parent[subject]
        return subject

    for one, other in pairs:
        parent[root(other)] = root(one)
    return [root(subject) for subject in subjects]


def thin(subjects: Subjects | None, n: int, most: int | None, seed: int = 0) -> Int[Tensor, " kept"]:
    """Draw at most `most` out of n images at random, every subject giving as equally many as it can.

    A fixed place within a subject (its middle slice, say) would not stand for the others.

    Args:
        subjects: Subject of each image, or None.
        n: Number of images.
        most: Images to draw; None for all.
        seed: Of the draw.

    Returns:
        Positions of the images drawn, ascending; `min(n, most)` of them.

    Example:
        >>> thin(["a", "a", "a", "b"], 4, 2).tolist()
        [0, 3]
    """
    if most is None or n <= most:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(seed)
    rounds = _rounds(subjects, n, generator)
    last = rounds[most - 1][0]
    whole, partial = [i for place, i in rounds if place < last], [i for place, i in rounds if place == last]
    drawn = torch.randperm(len(partial), generator=generator)[: most - len(whole)].tolist()
    return torch.tensor(sorted(whole + [partial[k] for k in drawn]))


def _rounds(subjects: Subjects | None, n: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Round and image: in the first round every subject gives a random image, in the second another one, and so on."""
    groups: dict[Hashable, list[int]] = {}
    for i in torch.randperm(n, generator=generator).tolist():
        groups.setdefault(i if subjects is None else subjects[i], []).append(i)
    return sorted((place, i) for rows in groups.values() for place, i in enumerate(rows))


def folds(groups: Sequence[Hashable], most: int, seed: int) -> Int[Tensor, " n"]:
    """Spread groups over folds at random, each group whole.

    Args:
        groups: Group of each image, most often its subject.
        most: Folds at most.
        seed: Of the order.

    Returns:
        Fold of each image; as many folds as groups, at most `most`, with numbers of groups that differ by 1 at most.

    Example:
        >>> folds(["a", "a", "b", "c"], most=2, seed=0).tolist()
        [1, 1, 0, 0]
    """
    unique = list(dict.fromkeys(groups))
    shuffled = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    fold_of = {unique[u]: position % most for position, u in enumerate(shuffled)}
    return torch.tensor([fold_of[group] for group in groups])


def show_alike(train: Subjects, held_out: Subjects, seed: int) -> Sides:
    """Choose as many images a subject on one side as on the other, drawn at random.

    Subjects are exchangeable only where they are shown alike: with seventeen slices of each training subject and four
    of each held-out one, the closest image would be a training image of anybody, and the mean of a held-out subject
    would vary more. Subjects are ranked by their number of images, and those of equal rank show the smaller of their
    two numbers.

    Args:
        train: Subject of each training image.
        held_out: Subject of each held-out image.
        seed: Of the draws.

    Returns:
        Positions of the images to show.

    Example:
        >>> sides = show_alike(["a", "a", "a", "b", "b"], ["c", "d"], seed=0)
        >>> len(sides.train), len(sides.held_out)
        (2, 2)
    """
    shown = torch.minimum(_images_by_rank(train), _images_by_rank(held_out))
    return Sides(_drawn(train, shown, seed), _drawn(held_out, shown, seed))


def _images_by_rank(subjects: Subjects) -> Tensor:
    """Number of images of the subject at each of `RANKS` quantiles, ascending."""
    counts = torch.tensor(sorted(Counter(subjects).values()))
    return counts[(torch.arange(RANKS) + 0.5).mul(len(counts) / RANKS).long()]


def _drawn(subjects: Subjects, shown: Tensor, seed: int) -> Tensor:
    """Positions of images, ascending: of the subject at each quantile `shown` images, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, list[int]] = {}
    for i in torch.randperm(len(subjects), generator=generator).tolist():
        rows.setdefault(subjects[i], []).append(i)
    # Stable: subjects with equally many images stay in random order.
    ranked = sorted(rows.values(), key=len)
    ranks = [int((place + 0.5) * RANKS / len(ranked)) for place in range(len(ranked))]
    kept = [own[: int(shown[rank])] for own, rank in zip(ranked, ranks, strict=True)]
    return torch.tensor(sorted(i for own in kept for i in own))
