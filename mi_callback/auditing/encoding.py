"""Images → features on several devices at once: GPUs, or processes of the CPU."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_callback.arguments import usable_device
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError
from mi_callback.images.files import SliceFolder
from mi_callback.images.reservoir import Reservoir
from mi_callback.retrieval.features import Features


@dataclass(frozen=True)
class Devices:
    """Encodes folders in shards, as `FeatureExtraction` does, and fits on what comes of it.

    Attributes:
        detector: Encodes; of the settings of the one that is fitted.
        count: Devices.
        folder: Where shards are kept until the audit ends, patient data.
    """

    detector: MemorizationDetector
    count: int
    folder: Path

    def fit(self, fitted: MemorizationDetector, train: SliceFolder, held_out: SliceFolder | None, bars: bool) -> None:
        """As `fitted.fit(train, held_out=held_out)`, to the last bit."""
        kind = self.detector.fitter.kind(held_out)
        features, planted = self._encoded(train, bars, in_all_poses=kind != "held_out")
        novel = None
        if held_out is not None and (kind == "held_out" or self.detector.contrast):
            novel, _ = self._encoded(held_out, bars, held_out=True)
        fitted.fit_features(features, novel, planted, bars)

    def samples(self, generated: SliceFolder | None, bars: bool) -> Features:
        """As `detector.features(generated)`."""
        assert generated is not None
        return self._encoded(generated, bars, held_out=True)[0]

    def _encoded(self, images: SliceFolder, bars: bool, **how: bool) -> tuple[Features, Reservoir | None]:
        from lightning import Trainer

        from mi_callback.lightning.extraction import FeatureExtraction

        job = FeatureExtraction(self.detector, images, self.folder, **how)
        gpus = self.detector.device.type == "cuda"
        with _quiet():
            trainer = Trainer(
                accelerator="gpu" if gpus else "cpu", devices=self.count, strategy="ddp_spawn", logger=False,
                enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=bars,
            )  # fmt: skip
            trainer.predict(job, return_predictions=False)
        return job.merged()


def check_devices(count: int, device: Any) -> None:
    """Refuse more devices than there are, before anything is read.

    Args:
        count: Devices.
        device: Where the detector runs, as it takes it.

    Raises:
        OptionError: For more GPUs than this machine has.
    """
    there = torch.cuda.device_count()
    if usable_device("device", device).type == "cuda" and count > there:
        raise OptionError(f"needed {count} GPUs for devices={count}; there are {there}. Take devices={max(1, there)}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says of the machine: an audit has other news."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
