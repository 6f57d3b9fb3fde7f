"""Weights & Biases: distribution, table of flags, curves, summary of the worst validation, alert, report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mi_callback.lightning.loggers.looks import Look, Shown, untested, worst
from mi_callback.lightning.loggers.names import ALONE, Names
from mi_callback.lightning.loggers.tables import GROUPS, caption, flagged_table, group_rows, value_range
from mi_callback.scores import Scores

STEP = "trainer/global_step"
"""The axis on which Lightning puts everything."""

BANDS = {
    "mi_band": ("MI of samples and of real images not trained on",
                ("mi_p05", "mi_median", "mi_p95", "null_mi_p05", "null_mi_p95")),
    "flags": ("flagged samples and those to expect", ("flagged", "flagged_expected")),
}  # fmt: skip
"""Curves that are drawn together: title and keys."""


def log_look(run: Any, shown: Shown) -> None:
    """What one validation gives to see."""
    import wandb

    scores, looks, names = shown.scores, shown.looks, shown.names
    evidence = [] if shown.pairs is None else _pictures(scores, shown.pairs)
    columns, rows = flagged_table(scores, shown.subjects)
    if evidence:  # the rows are in the same order, the worst first
        columns = [*columns, "evidence"]
        rows = [[*row, evidence[i] if i < len(evidence) else None] for i, row in enumerate(rows)]
    media: dict[str, Any] = {
        names.media("mi"): wandb.Histogram(np_histogram=np.histogram(scores.mi.numpy(), 64, value_range(scores.mi))),
        names.media("flagged"): wandb.Table(columns=list[str | int](columns), data=list[Any](rows)),
        STEP: shown.step,
    }
    if evidence:
        media[names.media("closest")] = evidence
    if looks:
        media |= _curves(looks, names)
        if looks[-1].groups:
            media[names.media("by_condition")] = wandb.Table(
                columns=list[str | int](GROUPS), data=list[Any](group_rows(looks[-1], scores))
            )
    run.log(media)
    if looks:
        _summarise(run, scores, looks, names)


def log_alarm(run: Any, look: Look, names: Names = ALONE) -> None:
    """Alert people to an alarm: counts, and no name."""
    flagged, expected = look.summary["flagged"], look.summary["flagged_expected"]
    text = f"Epoch {look.epoch}: {flagged:.0f} samples flagged as copies, at most {expected:.1f} expected by chance."
    run.alert(title=f"{names.title} alarm", text=text, level="WARN")


def log_report(run: Any, files: Sequence[Path], names: Names = ALONE) -> None:
    """The files of the report that hold aggregates, as an artifact."""
    import wandb

    artifact = wandb.Artifact(f"{names.base}-{run.id}", type="memorization-report")
    for file in files:
        artifact.add_file(str(file), name=file.name)
    run.log_artifact(artifact)


def _curves(looks: Sequence[Look], names: Names) -> dict[str, Any]:
    import wandb

    made = {}
    for name, (title, keys) in BANDS.items():
        having = [look for look in looks if keys[0] in look.summary]
        if len(having) > 1:
            steps, lines = [look.step for look in having], [[look.summary[key] for look in having] for key in keys]
            made[names.media(name)] = wandb.plot.line_series(steps, lines, list(keys), title, "training step")
    return made


def _summarise(run: Any, scores: Scores, looks: Sequence[Look], names: Names) -> None:
    """Beside the last values, which W&B keeps by itself: the worst validation, and what was not tested."""
    run.define_metric(names.scalar("*"), step_metric=STEP)
    look = worst(looks)
    if look is not None:
        run.summary.update({names.scalar(f"worst/{key}"): value for key, value in look.summary.items()})
        run.summary[names.scalar("worst/epoch")] = look.epoch
    run.summary[names.scalar("verdict")] = str(scores.verdict)
    run.summary[names.scalar("notes")] = " · ".join([*scores.doubts, *scores.notes])
    run.summary[names.scalar("untested")] = untested(scores)


def _pictures(scores: Scores, pairs: Any) -> list[Any]:
    import wandb

    rows = zip(pairs, scores.closest(len(pairs)), strict=True)
    return [wandb.Image((pair[0].clamp(0, 1) * 255).byte().numpy(), caption=caption(scores, i)) for pair, i in rows]
