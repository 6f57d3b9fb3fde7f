"""Folders in, scores and their files out: the library twin of `mi-audit`."""

import csv
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mi_callback.auditing.volumes import score_volumes
from mi_callback.detector import MemorizationDetector
from mi_callback.encoders import Encoder, build_encoder
from mi_callback.errors import CalibrationError, DataError
from mi_callback.images.files import Slice, SliceFolder, VolumeFolder
from mi_callback.reporting import collect_evidence, write_evidence
from mi_callback.scores import Scores

Volumes = Literal["slices", "whole"]


def audit(
    train: str | Path,
    generated: str | Path,
    held_out: str | Path | None = None,
    out: str | Path | None = None,
    size: Sequence[int] | None = None,
    axis: int = 2,
    volumes: Volumes | None = None,
    colour: bool = False,
    power: int = 16,
    set_scores: bool = False,
    evidence: int = 40,
    progress: bool = False,
    **detector: Any,
) -> Scores:
    """Look for copies of training images in a folder of synthetic ones.

    Args:
        train: Folder of the images that the generator learned from.
        generated: Folder of synthetic images.
        held_out: Folder of real images of other subjects; without it the null is made from training subjects.
        out: Folder for `scores.csv` (a row per synthetic image, with paths and patient ids of matches),
            `summary.json` (aggregates alone, with power and certificate) and `evidence/`; nothing is written when None.
        size: Height and width to which images are fitted, their proportions kept; 128 × 128 when None. Of whole volumes
            depth, height and width; 96 each when None.
        axis: Slicing axis of volumes: 0 sagittal, 1 coronal, 2 axial.
        volumes: What is judged where files are volumes. None: each slice. `slices`: each volume by its slices, by how
            many match one training volume in order (see `volumes.score_volumes`; needs held-out volumes). `whole`: each
            volume, registered in three dimensions; an encoder of images is applied slice by slice.
        colour: Read pictures with their colours, for an encoder of three channels.
        power: Training images copied for the power self-test, each changed in every way; 0 for none. It tells what
            `clean` and the certificate rest on. Not measured for volumes judged by their slices.
        set_scores: Put C_T, AuthPct, FID, KID, Vendi and MiFID on the same features into `summary.json` too.
        evidence: Flagged images, most certain first, that are drawn into `evidence/` in `out`, each beside its match
            (patient data: see `mi_callback.reporting`); 0 for none.
        progress: Show progress bars.
        detector: Arguments of `MemorizationDetector`.

    Raises:
        DataError, CalibrationError: If `evidence` is negative; as `SliceFolder` and `MemorizationDetector.fit`.
    """
    if evidence < 0:
        raise DataError(f"needed evidence of at least 0 flags; {evidence!r} came.")
    folder = reader(size, axis, volumes, colour)
    synthetic, training, novel = folder(generated), folder(train), None if held_out is None else folder(held_out)
    if volumes == "slices" and novel is None:
        raise CalibrationError("needed held-out volumes for volumes='slices'; none came. Pass held_out=….")
    if volumes == "whole":
        detector["encoder"] = _of_volumes(detector.get("encoder", "bundled"))
    fitted = MemorizationDetector(**detector).fit(training, held_out=novel, progress=progress)
    for name, images in (("training", training), ("held-out", novel)):
        if images is not None:
            warn_of_unknown_subjects(name, images)
    shown, listed, real = None, synthetic.slices, training.slices
    if volumes == "slices":
        assert novel is not None
        if power:
            warnings.warn(
                "the power self-test plants single images: for volumes judged by their slices it is left out, and "
                "clean rests on no measured power. Leave it out yourself: power=0; or use volumes='whole'.",
                stacklevel=2,
            )
        ours, theirs, others = (_volume_of(images.slices) for images in (synthetic, training, novel))
        scores, shown = score_volumes(fitted, synthetic, ours, theirs, novel, others, novel.subjects, progress)
        listed, real = ([Slice(path, None, None) for path in dict.fromkeys(paths)] for paths in (ours, theirs))
    else:
        if power:
            fitted.power(power)
        scores = fitted.score(synthetic, progress=progress)
    if out is not None:
        write(scores, listed, real, Path(out), fitted.set_scores(synthetic) if set_scores else {})
        if evidence:
            flags = scores if shown is None else shown
            proofs = collect_evidence(fitted, synthetic, flags, evidence)
            write_evidence(proofs, Path(out) / "evidence", left_out=flags.flagging.count - len(proofs))
    return scores


def warn_of_unknown_subjects(name: str, images: SliceFolder) -> None:
    """Where images do not say whose they are."""
    if images.subjects is None:
        warnings.warn(
            f"no subject ids for the {name} images: each counts as its own person, which is too optimistic where "
            "several show the same one. Add a manifest.csv (columns file, subject), or one folder per subject.",
            stacklevel=3,
        )


def reader(
    size: Sequence[int] | None = None, axis: int = 2, volumes: Volumes | None = None, colour: bool = False
) -> Callable[[str | Path], SliceFolder]:
    """What reads a folder, with the arguments of `audit`: its slices, or its volumes whole."""
    if volumes not in (None, "slices", "whole"):
        raise DataError(f"needed volumes of 'slices', 'whole' or None; {volumes!r} came.")
    dims = 3 if volumes == "whole" else 2
    fitted: tuple[int, ...] = (128, 128) if dims == 2 else (96, 96, 96)
    if size is not None:
        fitted = tuple(size)
    if len(fitted) != dims:
        raise DataError(f"needed a size of {dims} numbers for {'volumes' if dims == 3 else 'slices'}; {fitted} came.")
    if dims == 3 and colour:
        raise DataError("needed pictures for colour=True; volumes='whole' reads NIfTI volumes, which have none.")
    if dims == 3:
        return lambda root: VolumeFolder(root, fitted)
    return lambda root: SliceFolder(root, fitted, axis, colour=colour)


def _of_volumes(encoder: str | Encoder) -> Encoder:
    built = build_encoder(encoder)
    return built if len(built.size) == 3 else build_encoder("slices", encoder=built)


def _volume_of(slices: Sequence[Slice]) -> list[Path]:
    """The volume of each slice: its file, and for pictures the folder that they are in."""
    return [piece.path if piece.position is not None else piece.path.parent for piece in slices]


def write(
    scores: Scores,
    synthetic: Sequence[Slice],
    real: Sequence[Slice],
    out: Path,
    others: Mapping[str, float] | None = None,
) -> None:
    """`scores.csv` (patient data: readable by its owner alone) and `summary.json` into `out`.

    Args:
        synthetic: Where each image lies that `scores` belong to.
        real: Where each training image lies.
        others: Set-level scores for the summary.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.csv").touch(mode=0o600)
    with (out / "scores.csv").open("w", newline="") as file:
        table = csv.writer(file)
        columns = ["mi", "oni", "p_value", "similarity", "verified", "copied_fraction", "consensus"]
        table.writerow(["generated", "slice", "flagged", *columns, "pose", "match", "match_slice", "match_subject"])
        for i in range(len(scores)):
            values = [float(getattr(scores, column)[i]) for column in columns]
            match = int(scores.match[i])
            table.writerow(
                [
                    synthetic[i].path,
                    synthetic[i].position,
                    bool(scores.flagged[i]),
                    *values,
                    scores.pose[i],
                    real[match].path,
                    real[match].position,
                    scores.match_subject[i],
                ]
            )
    summary: dict[str, Any] = {
        "verdict": scores.verdict,
        "doubts": scores.doubts,
        "n": len(scores),
        "alpha": scores.flagging.rule.alpha,
        "null": scores.flagging.null.kind,
        "null_subjects": scores.flagging.null.n_subjects,
        **scores.summary(),
        **{key: value if math.isfinite(value) else None for key, value in (others or {}).items()},
    }
    if scores.power is not None:
        summary["power_by_change"] = {change: scores.power.share(change) for change in scores.power.flagged}
    if scores.flagging.calibrated:
        summary["certificate"] = scores.certificate().statement
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
