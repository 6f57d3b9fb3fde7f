"""Scores → whatever loggers the Trainer has: distributions, tables, curves and reports where they can show them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_callback.lightning.loggers import mlflow, tensorboard, weights_and_biases
from mi_callback.lightning.loggers.looks import Look, Shown
from mi_callback.lightning.loggers.names import ALONE, Names
from mi_callback.lightning.loggers.tables import COLUMNS, ROWS, flagged_table, markdown_table

LOCAL = ("CSVLogger", "TensorBoardLogger", "DummyLogger")
"""Loggers that write files on this machine and send nothing."""


def log_media(logger: Any, shown: Shown) -> None:
    """Distributions, tables and curves, to W&B, TensorBoard and MLflow; nothing to other loggers.

    What leaves for the logger is numbers: positions in the sample and in the training set, never a file name.

    Args:
        logger: A Lightning logger of either package; recognised by the name of its class.
        shown: What it gets.
    """
    kinds = _kinds(logger)
    if "WandbLogger" in kinds:
        weights_and_biases.log_look(logger.experiment, shown)
    elif "TensorBoardLogger" in kinds:
        tensorboard.log_look(logger.experiment, shown)
    elif "MLFlowLogger" in kinds:
        mlflow.log_look(logger, shown)


def log_alarm(logger: Any, look: Look, names: Names = ALONE) -> None:
    """Alert people to an alarm, where a logger can."""
    if "WandbLogger" in _kinds(logger):
        weights_and_biases.log_alarm(logger.experiment, look, names)


def log_report(logger: Any, files: Sequence[Path], names: Names = ALONE) -> None:
    """Files that hold aggregates and no patient, as an artifact, where a logger keeps any."""
    kinds = _kinds(logger)
    if "WandbLogger" in kinds:
        weights_and_biases.log_report(logger.experiment, files, names)
    elif "MLFlowLogger" in kinds:
        mlflow.log_report(logger, files, names)


def sends(loggers: Sequence[Any]) -> bool:
    """Whether a logger may send what it gets, and what is printed, to another machine."""
    return any(not _kinds(logger) & set(LOCAL) for logger in loggers)


def logged_step(trainer: Any) -> int:
    """The step at which Lightning logs the scalars; `global_step` counts every optimizer of a GAN."""
    stepped: int = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return stepped - (not trainer.validating)


def _kinds(logger: Any) -> set[str]:
    return {kind.__name__ for kind in type(logger).__mro__}


__all__ = [
    "COLUMNS",
    "ROWS",
    "Shown",
    "flagged_table",
    "log_alarm",
    "log_media",
    "log_report",
    "logged_step",
    "markdown_table",
    "sends",
]
