"""What evades the detector: `make bench-attacks`. Writes RESULTS.md beside this file.

Copies of real training slices of $MI_CALLBACK_DATA are attacked: by fixed changes, by gradients of what the detector
compares, and by a search with its answers. Thresholds come from held-out people. What is measured is kept in
outputs/attacks: an interrupted run goes on.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from attacks.adaptive import BUDGET, DISPLACEMENT, STEPS, searched, within_grey_values, within_warps
from attacks.fixed import FIXED
from common.numbers import kept, measured_on, share, threshold
from common.pages import write_page
from detection.run import FIRST, Case, Methods, parts

from mi_callback.images.perturbations import t2_like
from mi_callback.lightning.loggers import markdown_table

HERE, KEPT = Path(__file__).parent, Path("outputs/attacks")
SEED, COPIES, SEARCHED, TRIES, RATE = 2, 30, 10, 40, 0.01
NULL = 400


def main() -> None:
    root = os.environ.get("MI_CALLBACK_DATA")
    if not root:
        raise SystemExit("needed MI_CALLBACK_DATA, a folder with ixi_t1 and spider_lumbar; it is not set.")
    torch.set_num_threads(1)
    measured = {
        name: kept(KEPT / f"{name}.json", lambda case=case: measure(Path(root), replace(case, seed=SEED)))
        for name, case in (("spine", FIRST[2]), ("brain", FIRST[0]))
    }
    write_page(HERE, page(measured))


def measure(root: Path, case: Case) -> dict[str, Any]:
    """What is found of each attack on one set: copies flagged, and matched with the right image."""
    train, held_out, novel = parts(case, root)
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
        print(case.folder, name, found[name], flush=True)

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
    sets = list(measured)
    names = list(measured[sets[0]]["found"])
    least = {name: min(one["found"][name][0] / one["found"][name][2] for one in measured.values()) for name in names}
    rows = [
        [name, *(share(count, one["found"][name][2]) for one in measured.values() for count in one["found"][name][:2])]
        for name in sorted(names, key=lambda name: least[name])
    ]
    columns = ["attack", *(column for name in sets for column in (f"{name}: found", "right slice"))]
    lines = "\n".join(f"- {name}: {sentence(one)}" for name, one in measured.items())
    return (
        f"# What evades the detector\n\n`make bench-attacks`, seed {SEED}, {measured_on()}. "
        f"{COPIES} copies of real slices an attack; found: beyond what {RATE:.0%} of held-out slices reach. Lumbar "
        "spines (`spider_lumbar`), an anatomy that the encoder never saw; brains (`ixi_t1`) of people it never saw. "
        f"Gradients: {STEPS} steps through the layers of the encoder and the local correlation in place.\n\n"
        f"## Attacks, the least found first\n\n{markdown_table(columns, rows)}\n\n"
        f"## A search with the detector's answers\n\nTwo changes of `images.perturbations` one after another, drawn at "
        f"random, up to {TRIES} tries for each of {SEARCHED} copies.\n\n{lines}\n"
    )


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
