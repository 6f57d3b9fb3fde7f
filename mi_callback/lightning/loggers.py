"""Scores → whatever logger the Trainer has: distributions and tables where it can show them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mi_callback.scores import Scores

PREFIX = "memorization/"
MEDIA = "memorization_media/"
ROWS = 64
"""Rows of the table of flagged samples at most; the worst first."""

COLUMNS = ("sample", "mi", "p_value", "verified", "similarity", "match", "pose", "consensus")


def log_media(logger: Any, scores: Scores, step: int, subjects: bool = False, pairs: Tensor | None = None) -> None:
    """Histogram of MI and table of flagged samples, to W&B and TensorBoard; nothing to other loggers.

    What leaves for the logger is numbers: positions in the sample and in the training set, never a file name.

    Args:
        logger: A Lightning logger of either package; recognised by the name of its class.
        scores: Of this validation.
        step: Global step.
        subjects: Whether training subject ids go into the table.
        pairs: Images to show, generated beside match, `(k, 1, h, w)` in [0, 1], in the order of `scores.closest`; only
            when the user asked for pixels to be logged.
    """
    names = [kind.__name__ for kind in type(logger).__mro__]
    if "WandbLogger" in names:
        _log_wandb(logger.experiment, scores, step, subjects, pairs)
    elif "TensorBoardLogger" in names:
        _log_tensorboard(logger.experiment, scores, step, subjects, pairs)


def flagged_table(scores: Scores, subjects: bool) -> tuple[list[str], list[list[Any]]]:
    """Column names and rows for the flagged samples, worst first, `ROWS` at most."""
    columns = list(COLUMNS) + (["subject"] if subjects else [])
    rows = []
    for i in [i for i in scores.closest(len(scores)) if scores.flagged[i]][:ROWS]:
        row = [
            i,
            float(scores.mi[i]),
            float(scores.p_value[i]),
            float(scores.verified[i]),
            float(scores.similarity[i]),
            int(scores.match[i]),
            scores.pose[i],
            int(scores.consensus[i]),
        ]
        # NaN (verification off) would vanish from charts without a word.
        row = [None if isinstance(value, float) and value != value else value for value in row]
        rows.append(row + ([scores.match_subject[i]] if subjects else []))
    return columns, rows


def _log_wandb(run: Any, scores: Scores, step: int, subjects: bool, pairs: Tensor | None) -> None:
    import wandb

    columns, rows = flagged_table(scores, subjects)
    media: dict[str, Any] = {
        f"{MEDIA}mi": wandb.Histogram(np_histogram=np.histogram(scores.mi.numpy(), bins=64, range=_range(scores.mi))),
        f"{MEDIA}flagged": wandb.Table(columns=list[Any](columns), data=rows),
        "trainer/global_step": step,
    }
    if pairs is not None:
        media[f"{MEDIA}closest"] = [
            wandb.Image((pair[0].clamp(0, 1) * 255).byte().numpy(), caption=_caption(scores, i))
            for pair, i in zip(pairs, scores.closest(len(pairs)), strict=True)
        ]
    run.log(media)


def _range(values: Tensor) -> tuple[float, float]:
    """Wide enough for bins of finite size, also when a collapsed generator makes all values nearly equal."""
    low, high = float(values.min()), float(values.max())
    least = 1e-6 * max(1.0, abs(low), abs(high))
    return (low, high) if high - low > least else (low - least, high + least)


def _log_tensorboard(writer: Any, scores: Scores, step: int, subjects: bool, pairs: Tensor | None) -> None:
    writer.add_histogram(f"{MEDIA}mi", scores.mi.numpy(), step)
    columns, rows = flagged_table(scores, subjects)
    writer.add_text(f"{MEDIA}flagged", markdown_table(columns, rows), step)
    if pairs is not None:
        writer.add_images(f"{MEDIA}closest", pairs.clamp(0, 1), step)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A pipe table; floats with three significant digits."""

    def cell(value: Any) -> str:
        return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [list(columns), ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _caption(scores: Scores, i: int) -> str:
    return f"sample {i}, match {int(scores.match[i])}, MI {float(scores.mi[i]):.1f}, p {float(scores.p_value[i]):.3g}"


def logged_step(trainer: Any) -> int:
    """The step at which Lightning logs the scalars; `global_step` counts every optimizer of a GAN."""
    stepped: int = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return stepped - (not trainer.validating)
