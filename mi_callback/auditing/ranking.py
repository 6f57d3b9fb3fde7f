"""Which encoder sees copies best in these images? The library twin of `mi-encoders train=DIR`."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from mi_callback.auditing.folders import Volumes, reader, warn_of_unknown_subjects
from mi_callback.detector import MemorizationDetector
from mi_callback.encoders import Card, Encoder, available, build_encoder, entry
from mi_callback.encoders.listing import RESTRICTED
from mi_callback.errors import CalibrationError, DataError, EncoderError, MemorizationError
from mi_callback.images.batches import read_batches
from mi_callback.images.files import SliceFolder
from mi_callback.images.preprocessing import check_images
from mi_callback.reporting.tables import text_table
from mi_callback.statistics.conformal import at_most
from mi_callback.statistics.null import NullKind, smallest_p, subjects_needed
from mi_callback.statistics.power import Power
from mi_callback.statistics.rates.clopper_pearson import Limits, clopper_pearson
from mi_callback.statistics.subjects import thin
from mi_callback.types import Subjects

ALIKE = 0.05
"""Level at which the power of two encoders is told apart."""

Spec = str | Mapping[str, Any] | Encoder
"""A name, a mapping (`name` and options of `build_encoder`, or a Hydra node with `_target_`), or an encoder."""


@dataclass(frozen=True)
class Ranked:
    """What one encoder found of the same planted copies as the others.

    Attributes:
        encoder: What was asked for.
        licence: Of its weights; `restricted` as in `Card`.
        alone: Power of its features, each image as a whole, no view turned: what the encoder itself is worth.
        verified: Power of the detector with windows, views and registration; None where these are off.
        fit_seconds: Per training or held-out image, to encode and calibrate.
        score_seconds: Per scored image.
        alike: Whether its power cannot be told from that of the strongest (paired over the images planted).
        error: Why there is nothing else to say of it.
        null: Kind of the null, its subjects, and the number of training images.
    """

    encoder: str
    licence: str = ""
    restricted: bool = False
    alone: Power | None = None
    verified: Power | None = None
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    alike: bool = False
    error: str | None = None
    null: tuple[str, int, int] = ("", 0, 0)

    @property
    def power(self) -> Power | None:
        """That of the detector as it is set: it ranks."""
        return self.verified or self.alone

    def hardest(self, n: int = 3) -> list[tuple[str, float]]:
        """The n changes of which the fewest copies were found, and their shares; none of which all were."""
        if self.power is None:
            return []
        shares = {change: self.power.share(change) for change in self.power.flagged}
        return sorted(((c, share) for c, share in shares.items() if share < 1), key=lambda item: item[1])[:n]


@dataclass(frozen=True)
class _Images:
    images: Tensor
    subjects: list[str] | None

    @property
    def people(self) -> int:
        return len(self.images) if self.subjects is None else len(set(self.subjects))


def rank(
    encoders: Sequence[Spec] | None,
    train: Any,
    held_out: Any = None,
    subjects: Subjects | None = None,
    held_out_subjects: Subjects | None = None,
    size: Sequence[int] | None = None,
    axis: int = 2,
    volumes: Volumes | None = None,
    colour: bool = False,
    power: int = 16,
    images: int | None = 500,
    **detector: Any,
) -> list[Ranked]:
    """Rank encoders by the share of planted copies that a detector with each of them finds in these images.

    Strongest first: by power of the detector as it is set. Encoders that cannot be told from the strongest by it
    (verification often finds nearly all) come in the order of their features alone. All see the same images and look
    for the same copies. One that cannot be built or run comes last, with its error.

    Args:
        encoders: Names, mappings such as `{"name": "mri_core", "checkpoint": "MRI_CORE_vitb.pth"}`, or encoders; those
            of the catalogue that need nothing when None.
        train: Folder of training images, or what `MemorizationDetector.fit` takes, volumes included.
        held_out: The same of other subjects; without it training subjects are compared with each other.
        subjects, held_out_subjects: One id per image, where no folder says it.
        size, axis, volumes, colour: Of folders, as in `audit`.
        power: Training images planted, each changed in every way.
        images: Training images at most, and held-out ones, drawn equally from every subject; None for all. Copies are
            harder to find among more images.
        detector: Arguments of `MemorizationDetector`; `encoder`, `contrast` and `tail` have no effect.

    Raises:
        DataError: For broken images, or none.
        CalibrationError: If no copy could be flagged at alpha with as few subjects, or the null is not calibrated.

    Example:
        >>> for row in rank(["bundled", "pixels"], "slices/train", "slices/held_out"):  # doctest: +SKIP
        ...     print(row.encoder, row.error or row.power.overall)
    """
    for name, count in (("power", power), ("images", images)):
        if count is not None and count < 1:
            raise DataError(f"needed {name} of at least 1; {count!r} came.")
    settings = {**detector, "contrast": False, "tail": None}
    settings.pop("encoder", None)
    plain = MemorizationDetector("pixels", **settings)  # a wrong setting is no fault of an encoder
    folder = reader(size, axis, volumes, colour)

    def load(source: Any, known: Subjects | None, name: str) -> _Images:
        return _load(folder(source) if isinstance(source, (str, Path)) else source, known, images, plain.seed, name)

    training = load(train, subjects, "training")
    novel = None if held_out is None else load(held_out, held_out_subjects, "held-out")
    kind = plain.fitter.kind(held_out)
    novel = novel if kind == "held_out" else None
    _check_resolution(kind, (novel or training).people, plain.rule.alpha)
    dims = training.images.ndim - 2
    if encoders is None:
        encoders = [name for name in available() if not entry(name).needs and entry(name).dims == dims]
    if not encoders:
        raise EncoderError("needed at least one encoder; none came. Example: encoders=['bundled', 'pixels'].")
    planted = thin(training.subjects, len(training.images), power, plain.seed).tolist()
    rows = []
    for spec in encoders:
        try:
            rows.append(_measure(spec, training, novel, planted, kind, settings))
        except Exception as error:  # whatever it was: the other encoders are still ranked
            said = str(error) if isinstance(error, MemorizationError) else f"{type(error).__name__}: {error}"
            rows.append(Ranked(label(spec), error=" ".join(said.split())))
    return _in_order(rows)


def label(spec: Spec) -> str:
    """An encoder in a table: its name, and of its options those that were given, files without their folders."""
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, Mapping):
        return str(getattr(spec, "name", type(spec).__name__))
    name = str(spec.get("name") or str(spec.get("_target_", "?")).rpartition(".")[2])
    options = [
        f"{key}={Path(value).name if isinstance(value, (str, Path)) else value}"
        for key, value in spec.items()
        if key != "name" and not key.startswith("_")
    ]
    return f"{name}({', '.join(options)})" if options else name


def ranking_table(rows: Sequence[Ranked]) -> str:
    """The rows of `rank` as a table, with what its columns mean. Nothing in it is about a person."""
    ranked = [row for row in rows if row.power is not None]
    verifying = any(row.verified for row in ranked)
    header = ["", "encoder", "power", "95 % interval", "features alone", "right subject", "hardest changes"]
    header += ["fit", "score", "licence"]
    cells = []
    for place, row in enumerate(ranked, start=1):
        assert row.power is not None
        assert row.alone is not None
        low, high = interval(row.power)
        traced = torch.stack([found.double() for found in row.power.traced.values()]).mean().item()
        cells.append(
            (
                f"{place}{'=' if row.alike and sum(other.alike for other in ranked) > 1 else ''}",
                row.encoder,
                f"{row.power.overall:.0%}",
                f"{low:.0%} to {high:.0%}",
                f"{row.alone.overall:.0%}",
                f"{traced:.0%}",
                ", ".join(f"{change} {share:.0%}" for change, share in row.hardest()),
                f"{1000 * row.fit_seconds:.0f} ms",
                f"{1000 * row.score_seconds:.0f} ms",
                row.licence + (RESTRICTED if row.restricted else ""),
            )
        )
    lines = []
    if ranked and (power := ranked[0].power) is not None:
        kind, people, images = ranked[0].null
        lines += [
            f"{power.n} of {images} training images copied, each with {len(power.flagged)} changes; "
            f"{kind} null of {people}, p ≤ {power.alpha:g}",
            "",
            text_table(header, cells, (3, 32, 5, 13, 8, 7, 30, 7, 7, 24), right=(2, 4, 5, 7, 8)),
            "",
            "power: share of the copies flagged"
            + (", with windows, views and registration, as mi-audit looks." if verifying else ", by features alone."),
            "features alone: share flagged by the features of whole images. right subject: share whose match is the "
            "subject copied.",
            "fit, score: time per image.",
        ]
        if sum(row.alike for row in ranked) > 1:
            lines.append(
                f"= cannot be told from the strongest at the {ALIKE:.0%} level (paired over the {power.n} images "
                "planted; more: power=64); among these, features alone decide."
            )
        if any(row.restricted for row in ranked):
            lines.append(f"{RESTRICTED} the licence excludes some uses or asks for an agreement first: read it.")
    failed = [row for row in rows if row.error is not None]
    if failed:
        lines += ["", "not ranked:"] if lines else ["not ranked:"]
        lines += [f"  {row.encoder}: {row.error}" for row in failed]
    return "\n".join(lines)


def interval(power: Power) -> Limits:
    """95 % interval of the overall power; the image, not the copy, is the unit. Exact (Clopper-Pearson)."""
    return clopper_pearson(*power.counts)


def _load(source: Any, subjects: Subjects | None, most: int | None, seed: int, name: str) -> _Images:
    """Images of a folder or container, checked, in memory, once for all encoders."""
    if isinstance(source, SliceFolder):
        warn_of_unknown_subjects(name, source)
        rows = thin(source.subjects, len(source), most, seed).tolist()
        images = torch.stack([source[i]["image"] for i in rows])
        known = None if source.subjects is None else [source.subjects[i] for i in rows]
    else:
        batches = list(read_batches(source, 64, None, None, None))
        if not batches:
            raise DataError(f"needed at least one {name} image; the data set or iterable is empty.")
        images = torch.cat([batch.images for batch in batches])
        known = None
        if subjects is not None:
            known = [str(subject) for subject in subjects]
        elif all(batch.subjects is not None for batch in batches):
            known = [subject for batch in batches for subject in batch.subjects or ()]
        if known is not None and len(known) != len(images):
            raise DataError(f"needed one subject per {name} image ({len(images)}); {len(known)} came.")
        drawn = thin(known, len(images), most, seed)
        images, known = images[drawn], None if known is None else [known[i] for i in drawn.tolist()]
    if images.ndim not in (4, 5):
        raise DataError(f"needed {name} images (n, 1, h, w), or volumes (n, 1, d, h, w); {tuple(images.shape)} came.")
    return _Images(check_images(images, images.shape[1], images.ndim - 2), known)


def _check_resolution(kind: NullKind, people: int, alpha: float) -> None:
    if not kind.calibrated:
        raise CalibrationError("needed null auto, held_out or cross_fit to rank by; train_halves is not calibrated.")
    if not at_most(smallest := smallest_p(people, kind), alpha):
        side = "held-out" if kind == "held_out" else "training"
        raise CalibrationError(
            f"needed at least {subjects_needed(alpha, kind)} {side} subjects for p ≤ {alpha:g} to happen at all; "
            f"{people} came. It would rank by chance: bring more subjects, or an alpha of at least "
            f"{math.ceil(smallest * 1e4) / 1e4}."
        )


def _measure(
    spec: Spec,
    training: _Images,
    novel: _Images | None,
    planted: list[int],
    kind: NullKind,
    settings: Mapping[str, Any],
) -> Ranked:
    encoder = _build(spec)
    dims = training.images.ndim - 2
    if len(encoder.size) != dims:
        kinds = {2: "images", 3: "volumes"}
        raise EncoderError(f"needed an encoder of {kinds[dims]}; {encoder.name!r} encodes {kinds[len(encoder.size)]}.")
    detector = MemorizationDetector(encoder, **settings)
    start = time.perf_counter()
    poses = detector.poses[:1] if kind == "held_out" else detector.poses
    train = detector.features(training.images, poses, training.subjects, views=True)
    held_out = None if novel is None else detector.features(novel.images, subjects=novel.subjects)
    detector.fit_features(train, held_out)
    encoded = len(training.images) + (0 if novel is None else len(novel.images))
    fit_seconds = (time.perf_counter() - start) / encoded
    _check_resolution(kind, detector.state.null.n_subjects, detector.rule.alpha)
    images = [training.images[i] for i in planted]
    start = time.perf_counter()
    power = detector.power(images=images, rows=planted)
    score_seconds = (time.perf_counter() - start) / (power.n * len(power.flagged))
    alone = power
    if detector.verify:
        plain = MemorizationDetector(encoder, **{**settings, "verify": False, "windows": None, "views": None})
        sides = [None if side is None else side.as_they_are() for side in (train, held_out)]
        assert sides[0] is not None
        alone = plain.fit_features(sides[0], sides[1]).power(images=images, rows=planted)
    card = getattr(encoder, "card", Card())
    return Ranked(
        label(spec),
        card.licence,
        card.restricted,
        alone,
        power if detector.verify else None,
        fit_seconds,
        score_seconds,
        null=(kind.replace("_", "-"), detector.state.null.n_subjects, len(training.images)),
    )


def _build(spec: Spec) -> Encoder:
    if isinstance(spec, Mapping):
        if "_target_" in spec:
            from hydra.utils import instantiate

            return build_encoder(instantiate(dict(spec), _convert_="all"))
        if "name" not in spec:
            raise EncoderError(f"needed name or _target_ in an encoder's mapping; it has the keys {list(spec)}.")
        return build_encoder(**spec)
    return build_encoder(spec)


def _in_order(rows: Sequence[Ranked]) -> list[Ranked]:
    """Those alike the strongest by their features alone, the others by power, then those with errors."""
    ranked = [row for row in rows if row.power is not None]
    if not ranked:
        return list(rows)
    best = max(ranked, key=_strength)
    marked = [replace(row, alike=_alike(row, best)) for row in ranked]
    alike = sorted((row for row in marked if row.alike), key=lambda row: _strength(row)[::-1], reverse=True)
    behind = sorted((row for row in marked if not row.alike), key=_strength, reverse=True)
    return [*alike, *behind, *(row for row in rows if row.power is None)]


def _strength(row: Ranked) -> tuple[float, float]:
    assert row.power is not None
    assert row.alone is not None
    return row.power.overall, row.alone.overall


def _alike(row: Ranked, best: Ranked) -> bool:
    """Whether the shares found of each planted image's copies differ by no more than chance (paired t-test)."""
    found = []
    for side in (row, best):
        assert side.power is not None
        found.append(torch.stack([flagged.double() for flagged in side.power.flagged.values()]).mean(dim=0))
    difference = found[1] - found[0]
    if len(difference) < 2 or not difference.any():
        return True
    if float(difference.std()) < 1e-12:
        return False
    return bool(stats.ttest_1samp(difference.numpy(), 0.0).pvalue > ALIKE)
