"""What others would say of the same slices: `make bench-peers` (half an hour). Writes RESULTS.md and a figure here.

Rules of the literature, rewritten from their papers (rules.py and learned.py name each), on the splits of
`make bench-paper`, whose figures of this package are taken where they are kept. What is measured is kept, a file a
split: an interrupted run goes on.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.numbers import kept, timed
from common.pages import write_page
from peers.figure import draw
from peers.measure import measure
from peers.page import page


def measured(config: DictConfig) -> dict[str, list[dict]]:
    """What every split gave, by set, in the order of the seeds; all sets of a seed come before the next seed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(config.threads)
    found: dict[str, list[dict]] = {name: [] for name in config.judged}
    for seed in range(config.peer_seeds):
        for name in config.judged:
            path = Path(config.kept) / f"{name}-{seed}.json"
            if config.measure or path.is_file():
                work = timed(f"{name} {seed}, of {config.peer_seeds} seeds", partial(measure, config, name, seed))
                found[name].append(kept(path, work))
    return {name: seeds for name, seeds in found.items() if seeds}


@hydra.main(version_base="1.3", config_path=str(Path(__file__).resolve().parents[2] / "conf"), config_name="peers")
def main(config: DictConfig) -> None:
    if not config.data:
        raise SystemExit("needed MI_CALLBACK_DATA, a folder with ixi_t1, spider_lumbar and open_ms; it is not set.")
    found, folder = measured(config), Path(config.page)
    draw(found, folder / "found.png")
    write_page(folder, page(config, found))


if __name__ == "__main__":
    main()
