"""Is a volume a copy? Judged by its slices: how many of them match one training volume, in its order."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError
from mi_callback.images.poses import compose, orbit
from mi_callback.scores import ImageScores, Scores
from mi_callback.statistics.duplicates import groups_of_duplicates
from mi_callback.statistics.flagging import Flagging, NullSummary
from mi_callback.statistics.indices import memorization_index, overfit_novelty_index
from mi_callback.statistics.null import Null, NullKind
from mi_callback.statistics.outliers import like_copies
from mi_callback.types import Subjects

_REVERSED = {pose: compose(pose, "flip_depth") for pose in orbit("flips")}
"""Pose of slices → that of a volume whose slices are in reverse order."""

DUPLICATE = 0.5
"""Share of the slices of a generated volume that must have a near-duplicate in another for the two to be ones."""


@dataclass(frozen=True)
class Alike:
    """The training volume that most slices of a volume match in order.

    Attributes:
        volume: Its number.
        slices: Which slices of the generated volume match it in order, positions from 0.
        reversed: Whether they do so from its last slice to its first.
    """

    volume: int
    slices: list[int]
    reversed: bool


def score_volumes(
    detector: MemorizationDetector,
    generated: Any,
    volumes: Sequence[Any],
    train_volumes: Sequence[Any],
    held_out: Any,
    held_out_volumes: Sequence[Any],
    held_out_subjects: Subjects | None = None,
    progress: bool = False,
) -> tuple[Scores, Scores]:
    """Score the slices of generated volumes with a fitted detector of images, and from them the volumes.

    The similarity of a volume is the share of its slices that match one training volume in the order of that volume, or
    in the reverse one. Held-out volumes get the same, and make the null: a novel volume's slices match here one, there
    another training volume. A volume is flagged by its p-value against them; its slices may be by theirs.

    Args:
        detector: Fitted on the slices of training volumes.
        generated: Slices, in any container that `detector.score` takes, those of one volume in their order.
        volumes: The volume of each of them.
        train_volumes: The volume of each training slice, those of one volume in their order.
        held_out: Slices of real volumes of other subjects.
        held_out_volumes: The volume of each of these.
        held_out_subjects: The subject of each, where several volumes may be of one.
        progress: Show progress bars.

    Returns:
        Scores of the volumes, in the order of their first slices, and those of the slices. Of a volume, `match` counts
        training volumes in the order of their first slices; `verified` is the mean over the slices in order,
        `copied_fraction` over all slices, those out of order counting 0; `consensus` is the median over those in order.

    Raises:
        StateError: If the detector is not fitted.
        DataError: If there is not one volume per slice.
        CalibrationError: If all held-out volumes are equally similar to the training set, or none came.
    """
    _one_each("training", train_volumes, len(detector.state.train))
    slices, novel = (detector.score(images, progress=progress) for images in (generated, held_out))
    _one_each("generated", volumes, len(slices))
    _one_each("held-out", held_out_volumes, len(novel))
    if held_out_subjects is not None:
        _one_each("held-out subject", held_out_subjects, len(novel))
    places = _places(train_volumes)
    rows = _rows(volumes)
    found = [_most_alike([places[i] for i in slices.match[own].tolist()]) for own in rows]
    share = torch.tensor(
        [len(one.slices) / len(own) for one, own in zip(found, rows, strict=True)], dtype=torch.float64
    )
    null = _null([places[i] for i in novel.match.tolist()], held_out_volumes, held_out_subjects)
    mi, p_value = memorization_index(share, null), null.p_values(share)
    subjects: Sequence[str | None] = detector.state.train.subjects or [None] * len(detector.state.train)
    subject_of_volume = list(dict(zip(train_volumes, subjects, strict=True)).values())
    in_order = [own[torch.tensor(one.slices)] for one, own in zip(found, rows, strict=True)]
    copied = [slices.copied_fraction[own].sum() / len(all_) for own, all_ in zip(in_order, rows, strict=True)]
    rule = slices.flagging.rule
    images = ImageScores(
        similarity=share,
        layer_similarity=torch.stack([slices.layer_similarity[own].mean(dim=0) for own in rows]),
        layers=slices.images.layers,
        mi=mi,
        oni=overfit_novelty_index(mi, detector.oni_scale),
        match=torch.tensor([one.volume for one in found]),
        match_subject=[subject_of_volume[one.volume] for one in found],
        consensus=torch.stack([slices.consensus[own].median() for own in in_order]),
        verified=torch.stack([slices.verified[own].mean() for own in in_order]),
        copied_fraction=torch.stack(copied),
        pose=[
            _pose([slices.pose[i] for i in own.tolist()], one.reversed)
            for one, own in zip(found, in_order, strict=True)
        ],
        like_copies=like_copies(share, null.similarity),
    )
    flagging = Flagging(
        p_value,
        rule.flag(p_value),
        groups_of_duplicates(len(rows), _duplicates(slices.flagging.group, rows)),
        rule,
        NullSummary.of(null),
    )
    # The power that was measured is that of slices.
    scores = Scores(images, flagging)
    return scores, slices


def _most_alike(matches: Sequence[tuple[int, int]]) -> Alike:
    """From the training volume, and the place in it, that each slice of a volume matches."""
    of_volume: dict[int, list[int]] = defaultdict(list)
    for position, (volume, _) in enumerate(matches):
        of_volume[volume].append(position)
    best = Alike(-1, [], False)
    for volume, positions in of_volume.items():
        for backwards in (False, True):
            sign = -1 if backwards else 1
            kept = _longest_rise([sign * matches[position][1] for position in positions])
            if len(kept) > len(best.slices):
                best = Alike(volume, [positions[k] for k in kept], backwards)
    return best


def _longest_rise(values: Sequence[int]) -> list[int]:
    """Positions of the longest subsequence that does not fall (patience sorting, Fredman 1975)."""
    tails: list[int] = []  # the smallest last value of a rise of each length, …
    last: list[int] = []  # … where it stands …
    before: list[int] = []  # … and what comes before each value
    for position, value in enumerate(values):
        length = bisect_right(tails, value)
        before.append(last[length - 1] if length else -1)
        tails[length : length + 1], last[length : length + 1] = [value], [position]
    rise = []
    position = last[-1] if last else -1
    while position >= 0:
        rise.append(position)
        position = before[position]
    return rise[::-1]


def _null(places: Sequence[tuple[int, int]], volumes: Sequence[Any], subjects: Subjects | None) -> Null:
    rows = _rows(volumes)
    shares = [len(_most_alike([places[i] for i in own.tolist()]).slices) / len(own) for own in rows]
    people = None if subjects is None else [subjects[int(own[0])] for own in rows]
    return Null(torch.tensor(shares, dtype=torch.float64), people, NullKind.HELD_OUT)


def _places(volumes: Sequence[Any]) -> list[tuple[int, int]]:
    """Number of the volume of each slice and its place in it."""
    number: dict[Any, int] = {}
    seen: Counter[Any] = Counter()
    places = []
    for volume in volumes:
        places.append((number.setdefault(volume, len(number)), seen[volume]))
        seen[volume] += 1
    return places


def _rows(volumes: Sequence[Any]) -> list[Tensor]:
    """Positions of the slices of each volume, volumes in the order of their first slices."""
    rows: dict[Any, list[int]] = defaultdict(list)
    for position, volume in enumerate(volumes):
        rows[volume].append(position)
    return [torch.tensor(own) for own in rows.values()]


def _pose(poses: Sequence[str], backwards: bool) -> str:
    """The commonest pose of the slices, and with the order of these reversed that of the volume."""
    commonest = Counter(poses).most_common(1)[0][0]
    return _REVERSED.get(commonest, commonest) if backwards else commonest


def _duplicates(group: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Pairs of volumes of which at least `DUPLICATE` of the slices are near-duplicates, `(k, 2)`."""
    groups = [set(group[own].tolist()) for own in rows]
    pairs = [
        (i, j)
        for j in range(len(rows))
        for i in range(j)
        if len(groups[i] & groups[j]) >= DUPLICATE * min(len(groups[i]), len(groups[j]))
    ]
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2)


def _one_each(what: str, volumes: Sequence[Any], n: int) -> None:
    if len(volumes) != n:
        raise DataError(f"needed one volume per {what} slice ({n}); {len(volumes)} came.")
