"""What the callback adds to an epoch of the demo's generator, and what `fit` adds to memory: a section of RESULTS.md.

Processor time on one thread. Drawing samples is counted apart: a generator that is looked at must draw them anyway.
"""

import logging
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mi_callback import MemorizationCallback, MemorizationDetector, __version__
from mi_callback.lightning.loggers.tables import markdown_table

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo"
TITLE = "## In training"
SIZE, SUBJECTS, HELD_OUT, STEPS, BATCH, SAMPLES = 64, 40, 36, 100, 64, 64
"""Of the run `many` of the demo."""
EPOCHS = 3
SLICES, NOVEL = (300, 1200), 20
"""Training sets whose memory is measured, and held-out images beside each."""


class Clock(lightning.Callback):
    """Processor time of epochs, and of drawing within them."""

    def __init__(self, module: Any) -> None:
        self.starts: list[float] = []
        self.drawing = 0.0
        self.draw, module.sample = module.sample, self.sample

    def sample(self, n: int) -> Tensor:
        began = time.process_time()
        drawn = self.draw(n)
        if self.starts:  # two images are drawn before
            self.drawing += time.process_time() - began
        return drawn

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.starts.append(time.process_time())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.starts.append(time.process_time())

    def seconds(self) -> list[float]:
        """Of each epoch, drawing included."""
        return [after - before for before, after in pairwise(self.starts)]


def epochs() -> dict[str, float]:
    """Seconds of an epoch: without the callback, with it (drawing apart) in the mean and in the middle, and drawing."""
    sys.path.insert(0, str(DEMO))
    from cohort import template_cohort
    from latent_diffusion import LatentDiffusion

    cohort = template_cohort(SIZE, 0, SUBJECTS + HELD_OUT)
    people = list(dict.fromkeys(cohort.subjects))
    train, held_out = cohort.of(people[HELD_OUT:]), cohort.of(people[:HELD_OUT], 4)

    def run(watched: bool) -> tuple[list[float], float]:
        lightning.seed_everything(0, verbose=False)
        module = LatentDiffusion(train.images)
        clock = Clock(module)
        watch = [MemorizationCallback(n_samples=SAMPLES, power=0)] if watched else []
        quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
        trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=[clock, *watch], **quiet)
        drawn = RandomSampler(train, replacement=True, num_samples=STEPS * BATCH)
        trainer.fit(module, DataLoader(train, BATCH, sampler=drawn), DataLoader(held_out, BATCH))
        return clock.seconds(), clock.drawing / EPOCHS

    alone, (watched, drawing) = run(False)[0], run(True)
    return {
        "alone": median(alone),
        "watched": mean(watched) - drawing,
        "middle": median(watched) - drawing,
        "drawing": drawing,
    }


class Noise(Dataset[Tensor]):
    """Made-up images that take no memory."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 10**6 + i)
        parts = [torch.rand(1, 1, side, side, generator=generator) for side in (6, 12, 24, 48)]
        return sum(torch.nn.functional.interpolate(part, (96, 96), mode="bicubic")[0] for part in parts)  # type: ignore[return-value]


def peak(n: int) -> int:
    """Bytes that `fit` of n training images takes at most beyond a detector; here and now."""
    torch.set_num_threads(1)
    detector = MemorizationDetector()
    detector.features(Noise(64, 9))  # what the encoder takes for a batch
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmHWM")
    detector.fit(Noise(n, 1), held_out=Noise(NOVEL, 2))
    return _status("VmHWM") - before


def memory() -> dict[int, int]:
    """The same by number of training images, each in a process of its own."""
    code = "import sys; sys.path.insert(0, {!r}); import watching; print(watching.peak({}))"
    run = [subprocess.run([sys.executable, "-c", code.format(str(HERE), n)], capture_output=True, check=True)
           for n in SLICES]  # fmt: skip
    return {n: int(done.stdout) for n, done in zip(SLICES, run, strict=True)}


def section() -> str:
    """The text of RESULTS.md on this."""
    took, peaks = epochs(), memory()
    added, usual = (took[key] - took["alone"] for key in ("watched", "middle"))
    few, many = SLICES
    rows = [[f"{n:,}", f"{peaks[n] / 2**20:.0f} MB", f"{peaks[n] / n / 1024:.0f} KB"] for n in SLICES]
    growth = (peaks[many] - peaks[few]) / (many - few) / 1024
    when = f"Measured {time.strftime('%Y-%m-%d')} with mi_callback {__version__}, torch {torch.__version__}."
    each = 1000 * usual / SAMPLES
    what = f"320 slices, {EPOCHS} epochs of {STEPS} steps of {BATCH}, {SAMPLES} samples at the end of each"
    shares = f"{usual / took['alone']:.0%} of the middle epoch and {added / took['alone']:.0%} of all"
    return f"""{TITLE}

{when}

The demo's generator, {what}: an epoch takes
{took["alone"]:.2f} s of one core without the callback. Drawing apart, the callback adds {usual:.1f} s to the middle
epoch, {each:.0f} ms a sample, and {added:.1f} s in the mean: the null is made again while the samples of a young
generator change their sharpness (and the power self-test, which is off here, would be). Drawing takes
{took["drawing"]:.2f} s more. The callback's share is {shares};
the goal, 5 %, is kept by the middle epoch where epochs take {usual / 0.05:.0f} s or more.

What `fit` takes at its peak, of resident memory, mapped files included, beyond a detector that has encoded a batch:

{markdown_table(["training images", "peak", "each"], rows)}

{growth:.0f} KB for each further image.
"""


def record() -> None:
    """Write the section into RESULTS.md, in the place of an older one; what else stands there stays."""
    file = HERE / "RESULTS.md"
    before, _, after = file.read_text().partition(TITLE)
    _, mark, following = after.partition("\n## ")
    file.write_text(f"{before.rstrip()}\n\n{section()}" + (f"\n{mark.strip()} {following}" if mark else ""))


def _status(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    record()
    print((HERE / "RESULTS.md").read_text())
