"""Folders in, scores and their files out: the library twin of `mi-audit`."""

import csv
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError
from mi_callback.evidence import write as write_evidence
from mi_callback.images import SliceFolder
from mi_callback.scores import Scores


def audit(
    train: str | Path,
    generated: str | Path,
    held_out: str | Path | None = None,
    out: str | Path | None = None,
    size: tuple[int, int] = (128, 128),
    axis: int = 2,
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
        size: Height and width to which images are fitted, their proportions kept.
        axis: Slicing axis of volumes: 0 sagittal, 1 coronal, 2 axial.
        power: Training images copied for the power self-test, each changed in every way; 0 for none. It tells what
            `clean` and the certificate rest on.
        set_scores: Put C_T, AuthPct, FID, KID, Vendi and MiFID on the same features into `summary.json` too.
        evidence: Flagged images, most certain first, that are drawn into `evidence/` in `out`, each beside its match
            (patient data: see `mi_callback.evidence`); 0 for none.
        detector: Arguments of `MemorizationDetector`.

    Raises:
        DataError, CalibrationError: If `evidence` is negative; as `SliceFolder` and `MemorizationDetector.fit`.
    """
    if evidence < 0:
        raise DataError(f"needed evidence of at least 0 flags; {evidence!r} came.")
    synthetic = SliceFolder(generated, size, axis)
    training, novel = SliceFolder(train, size, axis), None if held_out is None else SliceFolder(held_out, size, axis)
    fitted = MemorizationDetector(**detector).fit(training, held_out=novel, progress=progress)
    for name, folder in (("training", training), ("held-out", novel)):
        if folder is not None and folder.subjects is None:
            warnings.warn(
                f"no subject ids for the {name} images: each counts as its own person, which is too optimistic where "
                "several show the same one. Add a manifest.csv (columns file, subject), or one folder per subject.",
                stacklevel=2,
            )
    if power:
        fitted.power(power)
    scores = fitted.score(synthetic, progress=progress)
    if out is not None:
        write(scores, synthetic, training, Path(out), fitted.set_scores(synthetic) if set_scores else {})
        if evidence:
            proofs = fitted.evidence(synthetic, scores, evidence)
            write_evidence(proofs, Path(out) / "evidence", left_out=scores.n_flagged - len(proofs))
    return scores


def write(
    scores: Scores, synthetic: SliceFolder, real: SliceFolder, out: Path, others: Mapping[str, float] | None = None
) -> None:
    """`scores.csv` (patient data: readable by its owner alone) and `summary.json` into `out`."""
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
                    synthetic.slices[i].path,
                    synthetic.slices[i].position,
                    bool(scores.flagged[i]),
                    *values,
                    scores.pose[i],
                    real.slices[match].path,
                    real.slices[match].position,
                    scores.match_subject[i],
                ]
            )
    summary: dict[str, Any] = {
        "verdict": scores.verdict,
        "doubts": scores.doubts,
        "n": len(scores),
        "alpha": scores.alpha,
        "null": scores.null_kind,
        "null_subjects": scores.null_subjects,
        **scores.summary(),
        **{key: value if math.isfinite(value) else None for key, value in (others or {}).items()},
    }
    if scores.power is not None:
        summary["power_by_change"] = {change: scores.power.share(change) for change in scores.power.flagged}
    if scores.calibrated:
        summary["certificate"] = scores.certificate().statement
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
