"""Which encoder sees copies best in these images? The library twin of `mi-encoders train=DIR`."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_callback.arguments import known_options, positive_integer
from mi_callback.auditing.effects import Rule, refuse_without_effect
from mi_callback.auditing.loading import LoadedImages, load_images
from mi_callback.auditing.ranked import Against, Found, Ranked, in_order
from mi_callback.auditing.reading import FolderReader, Volumes, warn_of_unknown_subjects
from mi_callback.detector import MemorizationDetector
from mi_callback.encoders import Card, Encoder, available, build_encoder, entry
from mi_callback.errors import CalibrationError, EncoderError, MemorizationError
from mi_callback.images.files import SliceFolder
from mi_callback.retrieval.features import Features
from mi_callback.statistics.conformal import at_most
from mi_callback.statistics.null import NullKind, smallest_p, subjects_needed
from mi_callback.statistics.power import Power
from mi_callback.statistics.subjects import thin
from mi_callback.types import Subjects

Spec = str | Mapping[str, Any] | Encoder
"""A name, a mapping (`name` and options of `build_encoder`, or a Hydra node with `_target_`), or an encoder."""

NOT_FOR_RANKING = ("encoder", "contrast", "tail", "fdr", "procedure", "oni_scale")
"""Arguments of `MemorizationDetector` that change nothing of what is found of planted copies at `alpha`."""


@dataclass(frozen=True)
class _Trial:
    """What every encoder is tried on: the same images, the same copies.

    Attributes:
        train, held_out: Images of both sides; no held-out ones where the null is made from training subjects.
        planted: Rows of the training images that are copied.
        kind: Of the null.
        settings: Of the detector.
    """

    train: LoadedImages
    held_out: LoadedImages | None
    planted: Sequence[int]
    kind: NullKind
    settings: Mapping[str, Any]


def rank(
    encoders: Sequence[Spec] | None,
    train: Any,
    held_out: Any = None,
    subjects: Subjects | None = None,
    held_out_subjects: Subjects | None = None,
    size: int | Sequence[int] | None = None,
    axis: int | None = None,
    volumes: Volumes | str | None = None,
    colour: bool = False,
    columns: Mapping[str, str] | None = None,
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
        size: Of folders: height and width to which images are fitted, their proportions kept, of whole volumes depth,
            height and width; or one number for all sides. 128 each when None, of whole volumes 96.
        axis: Of folders: slicing axis of volumes, 0 sagittal, 1 coronal, 2 axial. Axial when None.
        volumes: Of folders: `whole` for volumes, to rank encoders of volumes; their slices when None.
        colour: Of folders: read pictures with their colours, for encoders of three channels.
        columns: Of folders: names of the columns of manifests, `{"file": "scan", "subject": "who"}`.
        power: Training images planted, each changed in every way.
        images: Training images at most, and held-out ones, drawn equally from every subject; None for all. Copies are
            harder to find among more images.
        detector: Arguments of `MemorizationDetector` but `NOT_FOR_RANKING`.

    Raises:
        DataError: For broken images, or none.
        CalibrationError: If no copy could be flagged at alpha with as few subjects, or the null is not calibrated.
        OptionError: If an option is unknown, of the wrong kind, or without effect beside the others.

    Example:
        >>> for row in rank(["bundled", "pixels"], "slices/train", "slices/held_out"):  # doctest: +SKIP
        ...     print(row.encoder, row.error or row.found.power.overall)
    """
    positive_integer("power", power)
    if images is not None:
        positive_integer("images", images)
    known_options(detector, MemorizationDetector)
    _refuse_of_detector(detector, held_out is not None)
    reader = FolderReader(size, axis, volumes, colour, columns)
    plain = MemorizationDetector("pixels", **detector)  # a wrong setting is no fault of an encoder
    sides = _load_sides(reader, (train, held_out), (subjects, held_out_subjects), images, plain.seed)
    trial = _try_on(*sides, power, plain, detector)
    return in_order([_tried(spec, trial) for spec in _specs(encoders, trial.train.dims)])


def label(spec: Spec) -> str:
    """An encoder in a table: its name, and of its options those that were given, files without their folders.

    Example:
        >>> label({"name": "mri_core", "checkpoint": "folder/f.pth"})
        'mri_core(checkpoint=f.pth)'
    """
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


def _refuse_of_detector(detector: Mapping[str, Any], held_out: bool) -> None:
    used = detector.get("null", "auto") in ("auto", "held_out")
    refuse_without_effect(
        [
            *(Rule(name, name in detector, False, "an audit, not a ranking,") for name in NOT_FOR_RANKING),
            Rule("held_out", held_out, used, "null='auto' or null='held_out'"),
        ]
    )


def _load_sides(
    reader: FolderReader,
    sources: tuple[Any, Any],
    subjects: tuple[Subjects | None, Subjects | None],
    most: int | None,
    seed: int,
) -> tuple[LoadedImages, LoadedImages | None]:
    """Training images, and held-out ones where there are any."""
    reader.check_columns([source for source in sources if isinstance(source, (str, Path))])
    read = [reader.read(source) if isinstance(source, (str, Path)) else source for source in sources]
    folders = [source for source in read if isinstance(source, SliceFolder)]
    slices = [piece for folder in folders for piece in folder.slices]
    refuse_without_effect(_rules_of_folders(reader, read, subjects, bool(folders)))
    if folders:
        reader.check_effects(slices)
    loaded: list[LoadedImages | None] = []
    for source, known, side in zip(read, subjects, ("training", "held-out"), strict=True):
        if isinstance(source, SliceFolder):
            warn_of_unknown_subjects(side, source)
        loaded.append(None if source is None else load_images(source, known, most, seed, side))
    assert loaded[0] is not None
    return loaded[0], loaded[1]


def _rules_of_folders(
    reader: FolderReader, read: Sequence[Any], subjects: Sequence[Subjects | None], folders: bool
) -> list[Rule]:
    by_ids = [source is not None and not isinstance(source, SliceFolder) for source in read]
    names = ("subjects", "held_out_subjects")
    return [
        *(
            Rule(name, ids is not None, there, "images that are no folder")
            for name, ids, there in zip(names, subjects, by_ids, strict=True)
        ),
        *(
            Rule(name, getattr(reader, name) not in (None, False), folders, "folders")
            for name in ("size", "axis", "volumes", "colour", "columns")
        ),
        Rule("volumes='slices'", reader.volumes == Volumes.SLICES, False, "an audit, not a ranking,"),
    ]


def _try_on(
    train: LoadedImages,
    held_out: LoadedImages | None,
    power: int,
    plain: MemorizationDetector,
    settings: Mapping[str, Any],
) -> _Trial:
    kind = plain.fitter.kind(held_out)
    novel = held_out if kind == "held_out" else None
    _check_resolution(kind, (novel or train).people, plain.rule.alpha)
    planted = thin(train.subjects, len(train), power, plain.seed).tolist()
    return _Trial(train, novel, planted, kind, settings)


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


def _specs(encoders: Sequence[Spec] | None, dims: int) -> Sequence[Spec]:
    if encoders is None:
        return [name for name in available() if not entry(name).needs and entry(name).dims == dims]
    if not encoders:
        raise EncoderError("needed at least one encoder; none came. Example: encoders=['bundled', 'pixels'].")
    return encoders


def _tried(spec: Spec, trial: _Trial) -> Ranked:
    """What an encoder found, or its error."""
    try:
        encoder = _build(spec)
        card = getattr(encoder, "card", Card())
        return Ranked(label(spec), card.licence, card.restricted, _measure(encoder, trial))
    except Exception as error:  # whatever it was: the other encoders are still ranked
        said = str(error) if isinstance(error, MemorizationError) else f"{type(error).__name__}: {error}"
        return Ranked(label(spec), error=" ".join(said.split()))


def _measure(encoder: Encoder, trial: _Trial) -> Found:
    dims = trial.train.dims
    if len(encoder.size) != dims:
        kinds = {2: "images", 3: "volumes"}
        raise EncoderError(f"needed an encoder of {kinds[dims]}; {encoder.name!r} encodes {kinds[len(encoder.size)]}.")
    detector = MemorizationDetector(encoder, **trial.settings)
    start = time.perf_counter()
    train, held_out = _fit(detector, trial)
    fitted = time.perf_counter()
    power = _plant(detector, trial)
    scored = time.perf_counter()
    return Found(
        alone=_alone(encoder, trial, train, held_out) if detector.verify else power,
        verified=power if detector.verify else None,
        fit_seconds=(fitted - start) / (len(train) + (0 if held_out is None else len(held_out))),
        score_seconds=(scored - fitted) / (power.n * len(power.flagged)),
        against=Against(trial.kind.replace("_", "-"), detector.state.null.n_subjects, len(train)),
    )


def _fit(detector: MemorizationDetector, trial: _Trial) -> tuple[Features, Features | None]:
    """Fit on the images of a trial; returns the features of both sides."""
    poses = detector.poses[:1] if trial.kind == "held_out" else detector.poses
    train = detector.features(trial.train.images, poses, trial.train.subjects, views=True)
    novel = trial.held_out
    held_out = None if novel is None else detector.features(novel.images, subjects=novel.subjects)
    detector.fit_features(train, held_out)
    _check_resolution(trial.kind, detector.state.null.n_subjects, detector.rule.alpha)
    return train, held_out


def _plant(detector: MemorizationDetector, trial: _Trial) -> Power:
    return detector.power(images=[trial.train.images[i] for i in trial.planted], rows=trial.planted)


def _alone(encoder: Encoder, trial: _Trial, train: Features, held_out: Features | None) -> Power:
    """Power of the features of whole images."""
    plain = MemorizationDetector(encoder, **{**trial.settings, "verify": False, "windows": None, "views": None})
    plain.fit_features(train.as_they_are(), None if held_out is None else held_out.as_they_are())
    return _plant(plain, trial)


def _build(spec: Spec) -> Encoder:
    if isinstance(spec, Mapping):
        if "_target_" in spec:
            from hydra.utils import instantiate

            return build_encoder(instantiate(dict(spec), _convert_="all"))
        if "name" not in spec:
            raise EncoderError(f"needed name or _target_ in an encoder's mapping; it has the keys {list(spec)}.")
        return build_encoder(**spec)
    return build_encoder(spec)
