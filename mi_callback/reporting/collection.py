"""From scores to evidence: the flagged images are read again, aligned to their matches and measured."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError
from mi_callback.images.batches import read_batches
from mi_callback.images.contrast.curves import apply_curve, look_alike
from mi_callback.images.patterns import without_patterns
from mi_callback.images.poses import POSES
from mi_callback.images.preprocessing import check_images
from mi_callback.registration.copied_fraction import copied_fraction
from mi_callback.registration.schedule import Alignment, register
from mi_callback.reporting.evidence import Evidence, Measured, NovelReach
from mi_callback.reporting.geometry import Change, Geometry
from mi_callback.reporting.pictures import pictures_of, planes
from mi_callback.retrieval.features import Features
from mi_callback.scores import Scores
from mi_callback.statistics.null import Null
from mi_callback.types import SubjectKey, Thumbnails

UNCALIBRATED = 0.9
"""LNCC from which a place is shown as a copy's where no novel images were aligned to compare."""


class _Samples(NamedTuple):
    """Generated images read again: their positions, thumbnails as they are compared, and files."""

    rows: list[int]
    thumbnails: Thumbnails
    files: list[str | None]


def collect_evidence(
    detector: MemorizationDetector,
    generated: Any,
    scores: Scores,
    n: int | None = None,
    image_key: SubjectKey = None,
) -> list[Evidence]:
    """What each flag is proved with, most certain first. Patient data.

    Args:
        detector: That gave the scores.
        generated: The images that `scores` belong to, `(m, c, *spatial)`, or a Dataset of them, of which only flagged
            ones are read.
        scores: Of these images.
        n: Flags at most; all of them when None.
        image_key: Where items hold their image.

    Raises:
        StateError: If the detector is not fitted.
        DataError: If the images cannot be indexed, are not as many as the scores, or n is negative.

    Example:
        >>> for one in collect_evidence(detector, generated, scores):  # doctest: +SKIP
        ...     print(one.headline, one.sentence)
    """
    if n is not None and n < 0:
        raise DataError(f"needed a number of flags of at least 0, or None for all; {n!r} came.")
    rows = [i for i in scores.closest(len(scores)) if scores.flagged[i]][:n]
    samples = _read_samples(detector, generated, scores, rows, image_key)
    if not rows:
        return []
    _, alignment = _align(detector, samples, scores)
    return _evidence(detector.state.train, scores.null or detector.null, samples, scores, alignment)


def closest_pairs(
    detector: MemorizationDetector, generated: Any, scores: Scores, n: int
) -> Float[Tensor, "n 1 side width"]:
    """The n generated images most likely to be copies beside their matches, worst first. Patient data.

    Args:
        detector: That gave the scores.
        generated: The images that `scores` belong to, `(m, c, *spatial)`, or a Dataset of them.
        scores: Of these images.
        n: Pairs at most.

    Returns:
        Pictures in [0, 1], twice as wide as high: left the generated image in the pose in which the match was found,
        right the training image aligned to it; of volumes their middle planes (`pictures.planes`).

    Raises:
        StateError: If the detector is not fitted.
        DataError: If the images cannot be indexed, or are not as many as the scores.
    """
    samples = _read_samples(detector, generated, scores, scores.closest(n), None)
    posed, alignment = _align(detector, samples, scores)
    sides = (posed.float() / 255, alignment.aligned.cpu())
    shown = [torch.stack([planes(image) for image in images]) for images in sides]
    return torch.cat(shown, dim=2)[:, None].nan_to_num()


def _read_samples(
    detector: MemorizationDetector, generated: Any, scores: Scores, rows: list[int], image_key: SubjectKey
) -> _Samples:
    train = detector.state.train
    if isinstance(generated, (list, tuple, IterableDataset)) or not hasattr(generated, "__getitem__"):
        raise DataError(
            f"needed images by position, a tensor (m, c, *spatial) or a Dataset; {type(generated).__name__} came. "
            "Batches: torch.cat(batches)."
        )
    if len(generated) != len(scores):
        raise DataError(f"needed the images that were scored ({len(scores)}); {len(generated)} came.")
    # One at a time: their sizes may differ.
    batches = list(read_batches(Subset(generated, rows), 1, None, image_key, None))
    images = [check_images(batch.images.cpu(), detector.encoder.channels, train.dims) for batch in batches]
    thumbnails = [without_patterns(image)[1] for image in images]
    files = [None if batch.sources is None else batch.sources[0] for batch in batches]
    return _Samples(rows, torch.cat([train.thumbnails[:0], *thumbnails]), files)


def _align(detector: MemorizationDetector, samples: _Samples, scores: Scores) -> tuple[Thumbnails, Alignment]:
    """Samples as posed when they were matched, and their matches aligned to them."""
    rows = samples.rows
    posed = torch.stack([POSES[scores.pose[i]](image) for i, image in zip(rows, samples.thumbnails, strict=True)])
    window, by_edges = (None if how is None else how[rows] for how in (scores.images.window, scores.images.by_edges))
    matches = detector.state.train.thumbnails[scores.match[rows]]
    return posed, register(posed, matches, window=window, by_edges=by_edges)


def _evidence(train: Features, null: Null, samples: _Samples, scores: Scores, alignment: Alignment) -> list[Evidence]:
    rows = samples.rows
    match = scores.match[rows]
    references = train.thumbnails[match]
    poses = [scores.pose[i] for i in rows]
    measured = _measured(scores, rows, alignment, null)
    changes = _changes(references, alignment, poses)
    pictures = pictures_of(samples.thumbnails, references, alignment, poses, [one.copied_from for one in measured])
    files: Sequence[str | None] = train.sources or [None] * len(train)
    novel = NovelReach.of(null)
    return [
        Evidence(row, int(m), scores.match_subject[row], samples.files[k], files[int(m)], change, one, novel, shown)
        for k, (row, m, change, one, shown) in enumerate(zip(rows, match, changes, measured, pictures, strict=True))
    ]


def _measured(scores: Scores, rows: list[int], alignment: Alignment, null: Null) -> list[Measured]:
    verify = not bool(scores.verified.isnan().all())
    levels = copied_fraction(alignment.shares.double().cpu(), null.usual)[1].nan_to_num(UNCALIBRATED)
    return [
        Measured(
            verified=float(scores.verified[row] if verify else lncc),
            copied_fraction=float(scores.copied_fraction[row]),
            copied_from=float(level),
            similarity=float(scores.similarity[row]),
            mi=float(scores.mi[row]),
            p_value=float(scores.p_value[row]),
            decides="verified" if verify else "similarity",
        )
        for row, level, lncc in zip(rows, levels, alignment.lncc, strict=True)
    ]


def _changes(references: Thumbnails, alignment: Alignment, poses: Sequence[str]) -> list[Change]:
    shown = references[:, None].float() / 255
    recoloured = ~look_alike(shown, apply_curve(shown, alignment.curve.cpu()))
    return [
        Change(Geometry.of(theta), pose, bool(other))
        for theta, pose, other in zip(alignment.theta, poses, recoloured, strict=True)
    ]
