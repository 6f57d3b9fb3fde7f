"""MLflow: tables and curves as artifacts below `memorization/`; scalars come by Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_callback.lightning.loggers.curves import draw_curves
from mi_callback.lightning.loggers.looks import Shown
from mi_callback.lightning.loggers.names import ALONE, Names
from mi_callback.lightning.loggers.tables import flagged_table, markdown_table


def log_look(logger: Any, shown: Shown) -> None:
    """The table of flags of this validation, the curves so far, and pictures where they were asked for."""
    client, run, step, names = logger.experiment, logger.run_id, shown.step, shown.names
    client.log_text(
        run, markdown_table(*flagged_table(shown.scores, shown.subjects)), f"{names.base}/flagged_{step:07}.md"
    )
    if shown.looks:
        client.log_figure(run, draw_curves(shown.looks), f"{names.base}/curves.png")
    for i, pair in enumerate(() if shown.pairs is None else shown.pairs):
        image = (pair[0].clamp(0, 1) * 255).byte().numpy()
        client.log_image(run, image, f"{names.base}/closest_{step:07}_{i}.png")


def log_report(logger: Any, files: Sequence[Path], names: Names = ALONE) -> None:
    """The files of the report that hold aggregates."""
    for file in files:
        logger.experiment.log_artifact(logger.run_id, str(file), names.base)
