"""Is a volume a copy? Judged by its slices: how many of them match one training volume, in its order."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.auditing.slice_order import Alike, most_alike
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError
from mi_callback.images.poses import compose, orbit
from mi_callback.scores import ImageScores, Scores
from mi_callback.statistics.duplicates import groups_of_duplicates
from mi_callback.statistics.flagging import Flagging, NullSummary
from mi_callback.statistics.indices import OniScale, memorization_index, overfit_novelty_index
from mi_callback.statistics.null import Null, NullKind
from mi_callback.statistics.outliers import like_copies
from mi_callback.types import Subjects

_REVERSED = {pose: compose(pose, "flip_depth") for pose in orbit("flips")}
"""Pose of slices → that of a volume whose slices are in reverse order."""

DUPLICATE = 0.5
"""Share of the slices of a generated volume that must have a near-duplicate in another for the two to be ones."""


@dataclass(frozen=True)
class _Stacks:
    """Volumes by their slices.

    Attributes:
        slices: Scores of all slices.
        rows: Positions of the slices of each volume.
        alike: The training volume that most slices of each match.
    """

    slices: Scores
    rows: Sequence[Tensor]
    alike: Sequence[Alike]

    @classmethod
    def of(cls, slices: Scores, volumes: Sequence[Any], places: Sequence[tuple[int, int]]) -> "_Stacks":
        """Slices by the volume of each, and the volume and place of each training slice."""
        rows = _rows(volumes)
        return cls(slices, rows, [most_alike([places[i] for i in slices.match[own].tolist()]) for own in rows])

    @property
    def share(self) -> Float[Tensor, " volumes"]:
        """Of the slices of each volume, in order: its similarity."""
        shares = [len(one.slices) / len(own) for one, own in zip(self.alike, self.rows, strict=True)]
        return torch.tensor(shares, dtype=torch.float64)

    @property
    def in_order(self) -> list[Tensor]:
        """Positions of those slices."""
        return [own[torch.tensor(one.slices)] for one, own in zip(self.alike, self.rows, strict=True)]


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
    stacks, others = _Stacks.of(slices, volumes, places), _Stacks.of(novel, held_out_volumes, places)
    people = None if held_out_subjects is None else [held_out_subjects[int(own[0])] for own in others.rows]
    null = Null(others.share, people, NullKind.HELD_OUT)
    subjects: Sequence[str | None] = detector.state.train.subjects or [None] * len(train_volumes)
    subject_of_volume = list(dict(zip(train_volumes, subjects, strict=True)).values())
    # The power that was measured is that of slices.
    found = _volume_scores(stacks, null, subject_of_volume, detector.oni_scale)
    return Scores(found, _flagging(stacks, null), recall=slices.recall), slices


def _volume_scores(
    stacks: _Stacks, null: Null, subject_of_volume: Sequence[str | None], oni_scale: OniScale
) -> ImageScores:
    slices, rows, in_order, share = stacks.slices, stacks.rows, stacks.in_order, stacks.share
    mi = memorization_index(share, null)
    copied = [slices.copied_fraction[own].sum() / len(whole) for own, whole in zip(in_order, rows, strict=True)]
    poses = [_pose([slices.pose[i] for i in own.tolist()], one.reversed)
             for one, own in zip(stacks.alike, in_order, strict=True)]  # fmt: skip
    return ImageScores(
        similarity=share,
        layer_similarity=torch.stack([slices.layer_similarity[own].mean(dim=0) for own in rows]),
        layers=slices.images.layers,
        mi=mi,
        oni=overfit_novelty_index(mi, oni_scale),
        match=torch.tensor([one.volume for one in stacks.alike]),
        match_subject=[subject_of_volume[one.volume] for one in stacks.alike],
        consensus=torch.stack([slices.consensus[own].median() for own in in_order]),
        verified=torch.stack([slices.verified[own].mean() for own in in_order]),
        copied_fraction=torch.stack(copied),
        pose=poses,
        like_copies=like_copies(share, null.similarity),
    )


def _flagging(stacks: _Stacks, null: Null) -> Flagging:
    rule, p_value = stacks.slices.flagging.rule, null.p_values(stacks.share)
    duplicates = _duplicates(stacks.slices.flagging.group, stacks.rows)
    group = groups_of_duplicates(len(stacks.rows), duplicates)
    return Flagging(p_value, rule.flag(p_value), group, rule, NullSummary.of(null))


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
