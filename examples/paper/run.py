"""The tables of the memorization-index paper again: `make bench-paper` (half an hour). Writes RESULTS.md and pictures.

Deo et al., "A Calibrated Memorization Index (MI) for Detecting Training Data Leakage in Generative MRI Models", arXiv
2602.13066, 2026. Beside the published figures stand the paper's recipe as it runs here and this package, on the same
slices. What is measured is kept, a file a split: an interrupted run goes on; `kept=…` names another folder.
"""

import sys
import time
import warnings
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.numbers import kept
from common.pages import write_page
from paper.figures import draw
from paper.measure import measure
from paper.page import page


def tasks(config: DictConfig) -> list[tuple[str, int, bool]]:
    """Set, seed and whether by the paper's protocol; all of a seed comes before the next seed."""
    found = []
    for seed in range(config.seeds):
        found += [(name, seed, False) for name in config.sets]
        found += [(name, seed, True) for name in config.coin_sets if seed < config.coin_seeds]
    return found


def measured(config: DictConfig) -> dict[tuple[str, bool], list[dict]]:
    """What every split gave, by set and protocol, in the order of the seeds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(config.threads)
    found: dict[tuple[str, bool], list[dict]] = {}
    todo, began, fresh = tasks(config), time.monotonic(), 0
    for number, (name, seed, coins) in enumerate(todo, 1):
        path = Path(config.kept) / f"{name}{'-coins' if coins else ''}-{seed}.json"
        if (new := not path.is_file()) and not config.measure:
            continue
        one = kept(path, lambda name=name, seed=seed, coins=coins: measure(config, name, seed, coins))
        found.setdefault((name, coins), []).append(one)
        if new:
            fresh += 1
            left = (time.monotonic() - began) / fresh * (len(todo) - number) / 60
            print(f"{number} of {len(todo)}: {path.stem}; {left:.0f} minutes to go", flush=True)
    return found


@hydra.main(version_base="1.3", config_path=str(Path(__file__).resolve().parents[2] / "conf"), config_name="paper")
def main(config: DictConfig) -> None:
    if not config.data:
        raise SystemExit("needed MI_CALLBACK_DATA, a folder with ixi_t1, spider_lumbar and open_ms; it is not set.")
    found, folder = measured(config), Path(config.page)
    draw(config, found, folder)
    write_page(folder, page(config, found))


if __name__ == "__main__":
    main()
