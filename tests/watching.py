"""A tiny generator, data for it, and a Trainer in which the callback watches; for all tests that train."""

import datetime
import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as lp
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mi_callback import MemorizationCallback, build_encoder

SIDE = 16


def images(n: int, seed: int) -> Tensor:
    """Smooth random images, all different."""
    noise = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (SIDE, SIDE), mode="bilinear")


TRAIN, HELD_OUT = images(24, 1), images(20, 2)


class Slices(Dataset):
    """Dictionaries as medical imaging pipelines make them; keys are free."""

    def __init__(self, pixels: Tensor, subjects: list[str] | None = None, key: str = "subject") -> None:
        self.pixels, self.subjects, self.key = pixels, subjects, key

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.pixels[i]} | ({self.key: self.subjects[i]} if self.subjects else {})


class Augmented(Slices):
    """Random noise and flips from a global random state."""

    def __init__(self, pixels: Tensor, uniform: Callable[[], float]) -> None:
        super().__init__(pixels)
        self.uniform = uniform

    def __getitem__(self, i: int) -> dict[str, Any]:
        pixels = self.pixels[i] + 0.1 * float(self.uniform())
        return {"image": pixels.flip(-1) if self.uniform() < 0.5 else pixels}


def tiny(base: type) -> type:
    class Tiny(base):
        """Latents → linear layer, batch norm, dropout → image."""

        def __init__(self, lr: float = 0.1) -> None:
            super().__init__()
            self.lr = lr
            self.net = nn.Sequential(nn.Linear(4, SIDE * SIDE), nn.BatchNorm1d(SIDE * SIDE), nn.Dropout(0.2))

        def sample(self, n: int) -> Tensor:
            like = self.net[0].weight
            return self.net(torch.randn(n, 4, device=like.device, dtype=like.dtype)).view(n, 1, SIDE, SIDE)

        def loss(self, batch: Any) -> Tensor:
            pixels = batch["image"] if isinstance(batch, dict) else batch[0]
            drawn = self.sample(len(pixels))
            return F.mse_loss(drawn, torch.as_tensor(pixels).to(drawn.dtype))

        def training_step(self, batch: Any, _index: int) -> Tensor:
            if isinstance(batch, list) and len(batch) == 2 and isinstance(batch[0], list):
                return sum(map(self.loss, batch))
            return self.loss(batch)

        def validation_step(self, batch: Any, _index: int, dataloader_idx: int = 0) -> None:
            self.loss(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.lr)

    return Tiny


Tiny = tiny(lp.LightningModule)


def loader(data: Any, batch_size: int = 8, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(data) if isinstance(data, Tensor) else data, batch_size=batch_size, **options)


def options(**further: Any) -> dict[str, Any]:
    return {"encoder": build_encoder("pixels", sides=(4, 8), size=32), "verify": False, "alpha": 0.1} | further


def callback(**further: Any) -> MemorizationCallback:
    detector = further.pop("detector", None) or options()
    return MemorizationCallback(
        **({"n_samples": 6, "sample_batch_size": 4, "detector": detector, "power": 0} | further)
    )


def make_trainer(*callbacks: Any, package: Any = lp, **further: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return package.Trainer(**({"accelerator": "cpu", "max_epochs": 1, "callbacks": list(callbacks)} | quiet | further))


def fit(
    *callbacks: Any,
    train: Any = None,
    val: Any = "default",
    module: Any = None,
    seed: int = 0,
    package: Any = lp,
    fit_options: dict[str, Any] | None = None,
    **further: Any,
) -> Any:
    """Seed everything, train, return the trainer."""
    lp.seed_everything(seed, verbose=False)
    trainer = make_trainer(*callbacks, package=package, **further)
    train = loader(TRAIN, shuffle=True) if train is None else train
    val = loader(HELD_OUT) if isinstance(val, str) else val
    trainer.fit(Tiny() if module is None else module, train, val, **(fit_options or {}))
    return trainer


def copies(*rows: int) -> Callable[[int], Tensor]:
    """A generator that has memorized these rows of `TRAIN`."""
    return lambda n: TRAIN[[rows[i % len(rows)] for i in range(n)]]


def scalars(trainer: Any) -> dict[str, float]:
    found = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("memorization/")}
    return {key.removeprefix("memorization/"): value for key, value in found.items()}


@contextmanager
def listening():
    """What the callback tells its user through the log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    # Whichever of the two packages was imported last owns the log of rank zero.
    loggers = [
        logging.getLogger(f"{package}.utilities.rank_zero")
        for package in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
    ]
    for log in loggers:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.disabled = False  # commands that ran before in this process switch off the loggers that they do not know
    yield lines
    for log in loggers:
        log.removeHandler(handler)


def two(seconds: float = 15) -> dict[str, Any]:
    """Options of a Trainer of two processes, whose strategy waits this long."""
    timeout = datetime.timedelta(seconds=seconds)
    return {"devices": 2, "strategy": DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timeout)}
