"""Folders in, scores and their files out: the library twin of `mi-audit`."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mi_callback.arguments import integer, known_options, positive_integer, switch
from mi_callback.auditing.accounting import doubts_of_files
from mi_callback.auditing.effects import Rule, refuse_without_effect
from mi_callback.auditing.encoding import Devices, check_devices
from mi_callback.auditing.reading import FolderReader, Folders, Volumes
from mi_callback.auditing.reports.contents import volume_of
from mi_callback.auditing.reports.outputs import Outputs
from mi_callback.auditing.reports.writing import Judged
from mi_callback.auditing.resuming import ResumableDetector, kept_in
from mi_callback.auditing.volumes import score_volumes
from mi_callback.cache import Kept, checked_cache
from mi_callback.detector import MemorizationDetector
from mi_callback.encoders import Encoder, build_encoder
from mi_callback.errors import CalibrationError, StateError
from mi_callback.images.files import Slice, SliceFolder
from mi_callback.reporting.document import Release
from mi_callback.retrieval.features import Features
from mi_callback.scores import Scores
from mi_callback.state import fingerprint, make_place
from mi_callback.statistics.gate import Gate

POWER = 16
"""Training images copied for the power self-test where nothing else is asked for."""


def audit(
    train: str | Path,
    generated: str | Path,
    held_out: str | Path | None = None,
    out: str | Path | None = None,
    control: str | Path | None = None,
    size: int | Sequence[int] | None = None,
    axis: int | None = None,
    volumes: Volumes | str | None = None,
    colour: bool = False,
    columns: Mapping[str, str] | None = None,
    voi: Sequence[float] | str | None = None,
    power: int | None = None,
    set_scores: bool = False,
    evidence: int | None = None,
    subgroups: bool = False,
    junit: str | Path | None = None,
    gate: Gate | None = None,
    release: Release | None = None,
    cache: str | Path | None = None,
    devices: int = 1,
    progress: bool = False,
    **detector: Any,
) -> Scores:
    """Look for copies of training images in a folder of synthetic ones.

    Args:
        train: Folder of the images that the generator learned from.
        generated: Folder of synthetic images.
        held_out: Folder of real images of other subjects; without it the null is made from training subjects.
        out: Folder for `report.html` and `report.json` (aggregates alone, with power and certificate), `scores.csv` (a
            row per synthetic image, with paths and patient ids of matches), `files.csv` (what became of every file),
            `evidence/` and `log.jsonl`, the record of audits and decisions; nothing is written when None.
        control: Folder of real images of subjects who were certainly not trained on, about as many as of those who
            were: what resembles both alike is no copy. Doubles the time.
        size: Height and width to which images are fitted, their proportions kept, of whole volumes depth, height and
            width; or one number for all sides. 128 each when None, of whole volumes 96.
        axis: Slicing axis of volumes: 0 sagittal, 1 coronal, 2 axial. Axial when None.
        volumes: What is judged where files are volumes. None: each slice. `slices`: each volume by its slices, by how
            many match one training volume in order (see `volumes.score_volumes`; needs held-out volumes). `whole`: each
            volume, registered in three dimensions; an encoder of images is applied slice by slice.
        colour: Read pictures with their colours, for an encoder of three channels.
        columns: Names of the columns of manifests where they are not plain ones such as file and subject:
            `{"file": "scan", "subject": "who"}`.
        voi: Values of interest of DICOM, NIfTI and ITK files of all sides, as the generator was trained on them: center
            and width of a window outside of which values are cut off, such as `[40, 400]`; `file` for the VOI LUT or
            window that each DICOM file names. All values when None, through the VOI LUT of a DICOM file that has one.
        power: Training images copied for the power self-test, each changed in every way; 0 for none. It tells what
            `clean` and the certificate rest on. 16 when None; volumes judged by their slices have no such test.
        set_scores: Put C_T, AuthPct, FID, KID, Vendi and MiFID on the same features into `report.json` too.
        evidence: Flagged images, most certain first, that are drawn into `evidence/` in `out`, each beside its match
            (patient data: see `mi_callback.reporting`); 0 for none, 40 when None.
        subgroups: Report flags by the first folder below `generated` that an image is in, whose names then stand in the
            report.
        junit: File for the outcome of the gate as JUnit XML, for build servers.
        gate: Limits that a release has to keep, for the report and `junit`; the verdict decides when None.
        release: What is to be released and to whom, for the report.
        cache: File for the fitted state, for audits of other samples against the same people; used again when encoder,
            settings and every pixel are the same. Or a folder for states of several people and settings. Patient data.
        devices: GPUs, or with `device="cpu"` processes, that encode, each its share; needs `out`. Controls,
            and synthetic volumes that are judged by their slices, are encoded by one.
        progress: Show progress bars.
        detector: Arguments of `MemorizationDetector`.

    Raises:
        DataError, CalibrationError: If nothing in a folder can be judged, or as `MemorizationDetector.fit`. Single
            files that cannot be judged end nothing: they are listed, and where they are more than
            `accounting.UNJUDGED` nothing reads as clean.
        OptionError: If an option is unknown, of the wrong kind, or without effect beside the others.
        RecordError: If the log of an earlier report in `out` was changed.
        OutputError: If a file cannot be written.
        BusyError: If another process is writing into `out`.

    An audit with `out` that is cut short leaves `out/unfinished/`, patient data, and the same call goes on from there.

    Example:
        >>> scores = audit("train", "generated", held_out="held_out", out="report")  # doctest: +SKIP
        >>> print(scores.verdict)  # doctest: +SKIP
    """
    known_options(detector, MemorizationDetector)
    reader = FolderReader(size, axis, volumes, colour, columns, voi)
    by_slices = reader.volumes == Volumes.SLICES
    for name, count in (("power", power), ("evidence", evidence)):
        if count is not None:
            integer(name, count, least=0)
    positive_integer("devices", devices)
    outputs = Outputs(_path(out), _path(junit), evidence, set_scores, switch("subgroups", subgroups), gate, release)
    refuse_without_effect(
        [
            *outputs.rules,
            Rule("control", control is not None, not by_slices, "images judged one by one, not volumes='slices',"),
            Rule("power", bool(power), not by_slices, "images judged one by one, not volumes='slices',"),
            Rule(f"devices={devices}", devices > 1, out is not None, "out=DIR"),
            *_rules_of_detector(detector, held_out is not None, by_slices),
        ]
    )
    if by_slices and held_out is None:
        raise CalibrationError("needed held-out volumes for volumes='slices'; none came. Pass held_out=….")
    check_devices(devices, detector.get("device"))
    state = checked_cache(cache)
    kind = None if reader.volumes is None else str(reader.volumes)
    options: dict[str, Any] = {
        "size": list(reader.sides),
        "axis": axis,
        "volumes": kind,
        "colour": colour,
        "planted": power,
    }
    options |= {} if voi is None else {"voi": voi if isinstance(voi, str) else list(voi)}
    with outputs.opened(), kept_in(outputs.out) as kept:
        folders = reader.read_all(train, generated, held_out, control, progress)
        outputs.check_subgroups(folders)
        options_of_detector = _for_dims(detector, reader.dims)
        fitted = _detector(options_of_detector, kept)
        apart = _apart(options_of_detector, kept, devices)
        judged = _audited(fitted, folders, _path(state), power, by_slices, progress, apart)
        outputs.write(fitted, folders, judged, options)
    return judged.scores


def _detector(options: dict[str, Any], kept: Kept | None) -> MemorizationDetector:
    return MemorizationDetector(**options) if kept is None else ResumableDetector(kept, **options)


def _apart(options: dict[str, Any], kept: Kept | None, devices: int) -> Devices | None:
    """Several devices that encode; None for one."""
    return None if kept is None or devices == 1 else Devices(MemorizationDetector(**options), devices, kept.folder)


def _audited(
    fitted: MemorizationDetector,
    folders: Folders,
    state: Path | None,
    power: int | None,
    by_slices: bool,
    progress: bool,
    apart: Devices | None,
) -> Judged:
    """What a detector that is fitted on these folders says of them."""
    _fit(fitted, folders, state, progress, apart)
    if folders.control is not None:
        fitted.fit_control(folders.control, progress=progress)
    label = "generated features" if progress else None
    samples = None
    if not by_slices:
        encode = partial(fitted.features, label=label) if apart is None else partial(apart.samples, bars=progress)
        samples = encode(folders.generated)
    _measure_power(fitted, power, samples, progress)
    judged = _judge(fitted, folders, samples, progress)
    scores = replace(judged.scores, caveats=[*judged.scores.caveats, *doubts_of_files(folders.files)])
    return replace(judged, scores=scores)


def _fit(
    fitted: MemorizationDetector, folders: Folders, state: Path | None, progress: bool, apart: Devices | None
) -> None:
    """Fit, or read a state that was fitted on the same images under the same settings."""

    def fit() -> None:
        if apart is None:
            fitted.fit(folders.train, held_out=folders.held_out, progress=progress)
        else:
            apart.fit(fitted, folders.train, folders.held_out, progress)

    if state is None:
        fit()
        return
    sides: list[Any] = [folders.train, folders.held_out]
    data = fingerprint(*sides)
    if fitted.is_kept(state, data):
        try:
            fitted.load(state, data)
        except StateError as error:
            warnings.warn(f"the cache is not used: {error}", stacklevel=4)
        if fitted.fitted and not (fitted.contrast and fitted.held_out is None):
            return
    make_place(state / "state" if state.is_dir() else state)  # before hours of encoding
    fit()
    fitted.save(state, data)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _rules_of_detector(detector: dict[str, Any], held_out: bool, by_slices: bool) -> list[Rule]:
    contrast, tail = bool(detector.get("contrast")), detector.get("tail") is not None
    used = detector.get("null", "auto") in ("auto", "held_out") or contrast or by_slices
    one_by_one = "images judged one by one, not volumes='slices',"
    return [
        Rule("held_out", held_out, used, "null='auto', null='held_out' or contrast=True"),
        Rule("contrast=True", contrast, not by_slices, one_by_one),
        Rule("tail", tail, not by_slices, one_by_one),
    ]


def _for_dims(detector: dict[str, Any], dims: int) -> dict[str, Any]:
    """Arguments of a detector; of volumes with an encoder that takes them."""
    return detector if dims == 2 else detector | {"encoder": _of_volumes(detector.get("encoder", "bundled"))}


def _of_volumes(encoder: str | Encoder) -> Encoder:
    built = build_encoder(encoder)
    return built if len(built.size) == 3 else build_encoder("slices", encoder=built)


def _measure_power(fitted: MemorizationDetector, power: int | None, samples: Features | None, progress: bool) -> None:
    """Of copies as sharp and noisy as the samples; of volumes judged by their slices, which are none, not at all."""
    if samples is None and power is None:
        warnings.warn(
            "the power self-test plants single images: for volumes judged by their slices it is left out, and "
            "clean rests on no measured power. Leave it out yourself: power=0; or use volumes='whole'.",
            stacklevel=3,
        )
    elif power != 0:
        fitted.power(POWER if power is None else power, like=samples, progress=progress)


def _judge(fitted: MemorizationDetector, folders: Folders, samples: Features | None, progress: bool) -> Judged:
    generated, train, held_out = folders.generated, folders.train, folders.held_out
    assert generated is not None
    if samples is not None:
        scores = fitted.score_features(samples, progress)
        return Judged(scores, generated.slices, train.slices, scores)
    assert held_out is not None
    ours, theirs, others = (_volume_of(images) for images in (generated, train, held_out))
    scores, slices = score_volumes(fitted, generated, ours, theirs, held_out, others, held_out.subjects, progress)
    listed, real = ([Slice(path, None, None) for path in dict.fromkeys(paths)] for paths in (ours, theirs))
    return Judged(scores, listed, real, slices)


def _volume_of(images: SliceFolder) -> list[Path]:
    """The volume of each slice: its file or DICOM series, and for pictures the folder that they are in."""
    return [volume_of(piece) for piece in images.slices]
