"""A generator that memorizes is caught while it trains: `make demo`, or `python examples/demo/main.py`.

The same latent diffusion model is trained on the slices of few subjects and of many; MemorizationCallback scores it
after every epoch against held-out subjects. The runs go side by side, a process and a core each. Ends with a table, a
figure and the paths of all files.
"""

import importlib.util
import logging
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
from cohort import Cohort, load_cohort
from figure import PAIRS, Watched, draw
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from latent_diffusion import LatentDiffusion
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig
from torch.utils.data import DataLoader, RandomSampler

from mi_callback import MemorizationCallback
from mi_callback.lightning.loggers import markdown_table

ROOT = Path(__file__).resolve().parents[2]


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="demo")
def main(config: DictConfig) -> None:
    began, out = time.monotonic(), Path(HydraConfig.get().runtime.output_dir)
    wanted = config.held_out.subjects + max(run.subjects for run in config.runs.values())
    cohort = load_cohort(config.size, config.seed, wanted)
    order = torch.randperm(len(set(cohort.subjects)), generator=torch.Generator().manual_seed(config.seed)).tolist()
    subjects = [sorted(set(cohort.subjects))[i] for i in order]
    held_out = cohort.of(subjects[: config.held_out.subjects], config.held_out.slices)
    print(
        f"{cohort.name}: {len(cohort)} slices of {len(subjects)} subjects, "
        f"{len(held_out)} slices of {len(set(held_out.subjects))} held out"
    )
    at_once = min(len(config.runs), os.cpu_count() or 1)
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        started = {}
        for name, run in config.runs.items():
            chosen = subjects[config.held_out.subjects :][: run.subjects]
            train = cohort.of(chosen, run.slices)
            print(f"{name}: training on {len(train)} slices of {len(chosen)} subjects")
            started[name] = pool.submit(fit, name, train, held_out, run.epochs, config, out)
        runs = {name: future.result() for name, future in started.items()}
    print(f"\n{table(runs)}\n")
    picture = draw(runs, out / "memorization.png")
    print(f"figure  {picture}")
    for name in runs:
        print(f"{name:7} {out / name / 'metrics.csv'}")
    for path in sorted((out / "wandb").glob("*run-*")):
        print(f"W&B     {path}")
    print(f"{time.monotonic() - began:.0f} s")


def fit(name: str, train: Cohort, held_out: Cohort, epochs: int, config: DictConfig, out: Path) -> Watched:
    """One run, in a process of its own."""
    quiet(name)
    torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    callback: MemorizationCallback = instantiate(config.callback)
    model = LatentDiffusion(train.images, **config.model)
    # An epoch is a fixed number of steps, so that both runs train equally long.
    sampler = RandomSampler(train, replacement=True, num_samples=config.steps_per_epoch * config.batch_size)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        callbacks=[callback],
        logger=loggers(name, config.wandb, out),
        log_every_n_steps=50,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, DataLoader(train, config.batch_size, sampler=sampler), DataLoader(held_out, config.batch_size))
    for logger in trainer.loggers:
        if hasattr(logger.experiment, "finish"):
            logger.experiment.finish()
    return Watched(callback.history, len(train), len(set(train.subjects)), callback.closest_pairs(PAIRS))


def quiet(name: str) -> None:
    """What is told in this process says of which run, once, and nothing beside it."""
    os.environ.setdefault("WANDB_SILENT", "true")
    for message in (".*does not have many workers.*", ".*isinstance.treespec.*"):
        warnings.filterwarnings("ignore", message=message)
    told = logging.StreamHandler(sys.stdout)
    told.setFormatter(logging.Formatter(f"{name:5} %(message)s"))
    told.addFilter(lambda record: record.getMessage().startswith(("memorization:", "  ")))
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.handlers, log.propagate = [told], False


def loggers(name: str, wandb: str, out: Path) -> list[Logger]:
    chosen: list[Logger] = [CSVLogger(out, name=name, version="")]
    if wandb == "auto":
        wandb = "offline" if importlib.util.find_spec("wandb") else "off"
    if wandb != "off":
        from lightning.pytorch.loggers import WandbLogger

        project = "mi_callback-demo"
        chosen.append(WandbLogger(project=project, name=name, save_dir=out, offline=wandb == "offline"))
    return chosen


def table(runs: dict[str, Watched]) -> str:
    columns = ["run", "epoch", "step", "MI median", "MI max", "flagged", "expected at most", "verdict"]
    rows: list[list[Any]] = [
        [
            name,
            epoch,
            step,
            float(scores.mi.median()),
            float(scores.mi.max()),
            scores.flagging.count,
            scores.flagging.expected,
            scores.verdict,
        ]
        for name, watched in runs.items()
        for epoch, step, scores in watched.history
    ]
    return markdown_table(columns, rows)


if __name__ == "__main__":
    main()
