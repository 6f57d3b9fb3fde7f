"""What generators really memorize, and whether the callback says so: `make bench-memorization` (an hour and a half).
Writes RESULTS.md and figures here.

Three families of generators are trained with the callback on 8 to all brain slices of $MI_CALLBACK_DATA, and on
slices of which some are repeated. Which samples are copies is told without the detector: by marks that one training
image alone bears, and by registration with every training image. What is measured is kept, a file a run: an interrupted
one goes on.
"""

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.numbers import kept, timed
from common.pages import write_page
from memorization.figure import draw
from memorization.measure import measure, path_of
from memorization.page import page


def measured(config: DictConfig) -> dict[tuple[str, str], dict[str, Any]]:
    """What every run gave, by family and training set."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(config.threads)
    found = {}
    todo = [(family, size) for family in config.families for size in config.slices]
    for number, (family, size) in enumerate(todo, 1):
        path, name = path_of(config, family, size), f"{number} of {len(todo)}, {family}, {size}"
        if config.measure or path.is_file():
            found[family, size] = kept(path, timed(name, partial(measure, config, family, size)))
    return found


@hydra.main(
    version_base="1.3", config_path=str(Path(__file__).resolve().parents[2] / "conf"), config_name="memorization"
)
def main(config: DictConfig) -> None:
    if not config.data:
        raise SystemExit("needed MI_CALLBACK_DATA, a folder with ixi_t1; it is not set.")
    found, folder = measured(config), Path(config.page)
    draw(config, found, folder)
    write_page(folder, page(config, found))


if __name__ == "__main__":
    main()
