"""What evades the detector: `make bench-attacks`. Writes RESULTS.md beside this file.

Copies of real training slices of $MI_CALLBACK_DATA are attacked: by fixed changes, by gradients of what the detector
compares, and by a search with its answers. Thresholds come from held-out people. What is measured is kept in
outputs/attacks: an interrupted run goes on.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from adaptive import BUDGET, DISPLACEMENT, STEPS, searched, within_grey_values, within_warps
from attacks import FIXED
from torch import Tensor

from mi_callback import __version__
from mi_callback.images.perturbations import t2_like
from mi_callback.lightning.loggers import markdown_table
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson

sys.path.insert(0, str(Path(__file__).parents[1] / "detection"))
from run import FIRST, Methods, parts, threshold

HERE, KEPT = Path(__file__).parent, Path("outputs/attacks")
SEED, COPIES, SEARCHED, TRIES, RATE = 2, 30, 10, 40, 0.01
NULL = 400


def main() -> None:
    root = os.environ.get("MI_CALLBACK_DATA")
    if not root:
        raise SystemExit("needed MI_CALLBACK_DATA, a folder with ixi_t1 and spider_lumbar; it is not set.")
    torch.set_num_threads(1)
    measured = {
        title: kept(name, lambda number=number: measure(Path(root), number))
        for title, name, number in (("spine", "spine", 2), ("brain", "brain", 0))
    }
    (HERE / "RESULTS.md").write_text(page(measured))
    print((HERE / "RESULTS.md").read_text())


def kept(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the last run measured, or a new measurement."""
    path = KEPT / f"{name}.json"
    if not path.is_file():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1))
    return json.loads(path.read_text())


def measure(root: Path, number: int) -> dict[str, Any]:
    """What is found of each attack on one set: copies flagged, and matched with the right image."""
    train, held_out, novel = parts(replace(FIRST[number], seed=SEED), root)
    methods = Methods(None, train)

    def score(images: Tensor) -> Tensor:
        return methods.match(methods.encode(images)).similarity

    null = score(held_out.images[:: -(-len(held_out.images) // NULL)])
    limit = threshold(null, RATE)
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(train.images), generator=generator)[:COPIES]
    copied, others = train.images[rows], novel.images[:: len(novel.images) // COPIES][:COPIES]
    found = {}

    def record(name: str, copies: Tensor) -> None:
        matched = methods.match(methods.encode(copies))
        beyond = int((matched.similarity > limit).sum())
        found[name] = [beyond, int((matched.row == rows[: len(copies)]).sum()), len(copies)]
        print(number, name, found[name], flush=True)

    for name, attack in FIXED.items():
        record(name, attack(copied, others, generator))
    for name, images in (("", copied), (", of a T2-like copy", t2_like(copied))):
        record(f"gradient, grey values within {255 * BUDGET:.0f}/255{name}", within_grey_values(images))
    record(f"gradient, grey values within {2 * 255 * BUDGET:.0f}/255", within_grey_values(copied, 2 * BUDGET))
    record(f"gradient, a warp within {DISPLACEMENT:.0f} px", within_warps(copied))
    _, evaded = searched(copied[:SEARCHED], score, limit, TRIES, SEED)
    strangers = score(novel.images[:: -(-len(novel.images) // NULL)])
    return {
        "found": found,
        "searched": evaded.tolist(),
        "novel": [int((strangers > limit).sum()), len(strangers)],
        "counts": [len(train.images), len(null)],
    }


# Telling --------------------------------------------------------------------------------------------------------------


def page(measured: dict[str, dict[str, Any]]) -> str:
    versions = f"mi_callback {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    sets = list(measured)
    names = list(measured[sets[0]]["found"])
    least = {name: min(one["found"][name][0] / one["found"][name][2] for one in measured.values()) for name in names}
    rows = [
        [name, *(cell for one in measured.values() for cell in cells(*one["found"][name]))]
        for name in sorted(names, key=lambda name: least[name])
    ]
    columns = ["attack", *(c for name in sets for c in (f"{name}: found (95 % interval)", "right slice"))]
    lines = "\n".join(f"- {name}: {sentence(one)}" for name, one in measured.items())
    return (
        f"# What evades the detector\n\n`make bench-attacks`, seed {SEED}, {time.strftime('%Y-%m-%d')}, {versions}. "
        f"{COPIES} copies of real slices an attack; found: beyond what {RATE:.0%} of held-out slices reach. Lumbar "
        "spines (`spider_lumbar`), an anatomy that the encoder never saw; brains (`ixi_t1`) of people it never saw. "
        f"Gradients: {STEPS} steps through the layers of the encoder and the local correlation in place.\n\n"
        f"## Attacks, the least found first\n\n{markdown_table(columns, rows)}\n\n"
        f"## A search with the detector's answers\n\nTwo changes of `images.perturbations` one after another, drawn at "
        f"random, up to {TRIES} tries for each of {SEARCHED} copies.\n\n{lines}\n"
    )


def cells(found: int, right: int, of: int) -> list[str]:
    low, high = clopper_pearson(found, of)
    return [f"{found / of:.2f} ({low:.2f}–{high:.2f})", f"{right / of:.2f}"]


def sentence(one: dict[str, Any]) -> str:
    tries = one["searched"]
    within = ", ".join(f"{sum(0 < t <= n for t in tries)} within {n}" for n in (5, 10, 20, TRIES))
    novel, of = one["novel"]
    train, null = one["counts"]
    return (
        f"of {len(tries)} copies evade {within} tries. {train} training slices, threshold from {null} held-out ones; "
        f"{novel} of {of} novel slices exceed it."
    )


if __name__ == "__main__":
    main()
