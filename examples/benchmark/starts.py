"""What the first and the second start of the callback cost with `cache=`: writes STARTS.md here.

    python examples/benchmark/starts.py 50000

Made-up slices in files, 20 of a person. Each start is a process of its own; processor time on one thread, from the
start of `fit` until the detector is ready.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from in_training import QUIET
from large import people
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mi_callback import MemorizationCallback, __version__
from mi_callback.lightning.loggers.tables import markdown_table

HERE = Path(__file__).parent
HELD_OUT, EACH, BLOCK = 100, 20, 500
"""Held-out images, images of a person, and images made up at a time."""


class Slices(Dataset[dict[str, Any]]):
    """Slices in files, one a file."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image = torch.from_numpy(np.load(self.files[i])).float() / 255
        return {"image": image, "subject": f"person {int(self.files[i].stem) // EACH}"}


class Generator(lightning.LightningModule):
    """Learns nothing, and draws the images of nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def sample(self, n: int) -> Tensor:
        return people(n, int(torch.randint(2**31, ())))


class Clock(lightning.Callback):
    """Processor time from the start of `fit` until the first epoch."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.began = time.process_time()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # the detector is ready then
        self.took = time.process_time() - self.began


def start(folder: Path) -> float:
    """Seconds of one start."""
    train, held_out = (Slices(sorted((folder / side).iterdir())) for side in ("train", "held_out"))
    clock, watch = Clock(), MemorizationCallback(n_samples=8, cache=folder / "state")
    few = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(accelerator="cpu", callbacks=[clock, watch], **few, **QUIET)
    trainer.fit(Generator(), DataLoader(train, 64, shuffle=True), DataLoader(held_out, 64))
    return clock.took


def make_up(folder: Path, n: int) -> None:
    """Training and held-out slices of different people."""
    for side, first, count in (("train", 0, n), ("held_out", n, HELD_OUT)):
        (folder / side).mkdir()
        for begin in range(first, first + count, BLOCK):
            images = people(min(BLOCK, first + count - begin), begin)
            low, high = images.amin(), images.amax()
            for i, image in enumerate(((images - low) / (high - low) * 255).to(torch.uint8).numpy(), start=begin):
                np.save(folder / side / f"{i:08d}.npy", image)


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_up(folder, n)
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), str(n), place]
        rows, first = list[list[str]](), None
        for name in ("first", "second"):
            began = time.monotonic()
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            took = json.loads(told.splitlines()[-1])
            first = took if first is None else first
            rows.append([name, f"{took:.1f}", f"{time.monotonic() - began:.0f}", f"{2 + first / 100:.1f}"])
            print(rows[-1], flush=True)
    columns = ["start", "processor, s", "whole process, s of the clock", "goal of the second: 2 s and 1 % of the first"]
    (HERE / "STARTS.md").write_text(f"""# The first and the second start

`python examples/benchmark/starts.py {n}`, {time.strftime("%Y-%m-%d")}, mi_callback {__version__}, torch
{torch.__version__}, one thread: {n:,} made-up training slices of 96 × 96 pixels in files, {n // EACH:,} people,
{HELD_OUT} held-out slices, all as it is by default but for `cache=`.

{markdown_table(columns, rows)}
""")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        print(json.dumps(start(Path(sys.argv[2]))))
    else:
        main(int(sys.argv[1]))
