"""What the callback adds to an epoch of the demo's generator: a section of RESULTS.md.

Processor time on one thread. Drawing samples is counted apart: a generator that is looked at must draw them anyway.
"""

import logging
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
from torch.utils.data import DataLoader, RandomSampler

from mi_callback import MemorizationCallback, __version__

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo"
TITLE = "## In training"
SIZE, SUBJECTS, HELD_OUT, STEPS, BATCH, SAMPLES = 64, 40, 36, 100, 64, 64
"""Of the run `many` of the demo."""
EPOCHS = 3
QUIET = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
"""Of the Trainer: it writes nothing."""


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
        trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=[clock, *watch], **QUIET)
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


def section() -> str:
    """The text of RESULTS.md on this."""
    took = epochs()
    added, usual = (took[key] - took["alone"] for key in ("watched", "middle"))
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
"""


def record() -> None:
    """Write the section into RESULTS.md, in the place of an older one; what else stands there stays."""
    file = HERE / "RESULTS.md"
    before, _, after = file.read_text().partition(TITLE)
    _, mark, following = after.partition("\n## ")
    file.write_text(f"{before.rstrip()}\n\n{section()}" + (f"\n{mark.strip()} {following}" if mark else ""))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    record()
    print((HERE / "RESULTS.md").read_text())
