"""How well copies of real slices are found, by change: `make bench`. Writes RESULTS.md beside this file.

Per data set of $MI_CALLBACK_DATA, subjects that the bundled encoder was not trained on are split into training,
held-out and novel thirds. Every copy is changed, at a fixed strength. The threshold comes from the held-out null
alone; novel images, of subjects in neither of the other parts, measure the false-flag rate.
"""

import os
import platform
import time
from pathlib import Path

import lightning
import torch

from mi_callback import MemorizationDetector, __version__
from mi_callback.certificates import clopper_pearson
from mi_callback.images import SliceFolder, split_by_subject
from mi_callback.loggers import markdown_table
from mi_callback.perturbations import PERTURBATIONS
from mi_callback.preprocessing import check_images, normalise_intensity

SETS = {"ixi_t1": 0.5, "spider_lumbar": 0.0}
"""Data set → share of its subjects that the bundled encoder was trained on (MODEL_CARD.md)."""

SIDE, SLICES, COPIES, ALPHA, SEED = 96, 8, 100, 0.1, 0
HERE = Path(__file__).parent


def main() -> None:
    root = os.environ.get("MI_CALLBACK_DATA")
    if not root:
        raise SystemExit(
            "needed MI_CALLBACK_DATA, a folder with ixi_t1/slices and spider_lumbar/slices; it is not set."
        )
    torch.set_num_threads(1)
    sections = [section(name, Path(root), share) for name, share in SETS.items()]
    head = (
        f"# Detection of copies on real slices\n\n`make bench`, seed {SEED}, {time.strftime('%Y-%m-%d')}, mi_callback "
        f"{__version__}, torch {torch.__version__}, lightning {lightning.__version__}, Python "
        f"{platform.python_version()}, one CPU thread. Bundled encoder, default detector, alpha {ALPHA}.\n\n"
        "AUC: copies against novel images of other subjects, by feature similarity alone (best of four flips) and by "
        "LNCC after registration of 8 candidates. Flagged: share of copies with p ≤ alpha, 95 % Clopper-Pearson "
        "interval (copies as independent). Right match: the copied slice itself.\n"
    )
    (HERE / "RESULTS.md").write_text("\n".join([head, *sections]))
    print((HERE / "RESULTS.md").read_text())


def section(name: str, root: Path, share: float) -> str:
    folder = SliceFolder(root / name / "slices", size=(SIDE, SIDE))
    folder = folder.where(~split_by_subject(folder.subjects, share))
    subjects = sorted(set(folder.subjects))
    order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(SEED)).tolist()
    third = len(subjects) // 3
    train, train_ids = read(folder, {subjects[i] for i in order[:third]})
    held_out, held_out_ids = read(folder, {subjects[i] for i in order[third : 2 * third]})
    novel, novel_ids = read(folder, {subjects[i] for i in order[2 * third :]})
    detector = MemorizationDetector(alpha=ALPHA).fit(train, train_ids, held_out, held_out_ids)
    clean = detector.score(novel)
    generator = torch.Generator().manual_seed(SEED)
    copied = torch.randperm(len(train), generator=generator)[:COPIES]
    rows, seconds = [], 0.0
    for change, perturb in PERTURBATIONS.items():
        copies = perturb(train[copied], generator)
        began = time.perf_counter()
        scores = detector.score(copies)
        seconds += time.perf_counter() - began
        low, high = clopper_pearson(scores.n_flagged, len(scores))
        rows.append(
            [
                change,
                auc(scores.similarity, clean.similarity),
                auc(scores.verified, clean.verified),
                f"{scores.rate:.2f} ({low:.2f}–{high:.2f})",
                f"{float((scores.match == copied).double().mean()):.2f}",
                f"{float(scores.verified.median()):.2f}",
            ]
        )
        print(name, rows[-1], flush=True)
    milliseconds = 1000 * seconds / (len(PERTURBATIONS) * len(copied))
    resolved = (
        ""
        if clean.resolvable
        else (
            f" With {clean.null_subjects} held-out subjects alpha {ALPHA} cannot be resolved: nothing is flagged "
            "(inconclusive); the AUC does not depend on it."
        )
    )
    return (
        f"## {name}\n\n{len(train)} training slices of {third} subjects, {len(held_out)} held out of {third}, "
        f"{len(novel)} novel of {len(set(novel_ids))}. Novel images flagged: {clean.n_flagged} of {len(clean)} "
        f"({clean.rate:.1%}; at most {clean.flagged_expected:.1f} expected). LNCC of novel images: median "
        f"{float(clean.verified.median()):.2f}, maximum {float(clean.verified.max()):.2f}. {milliseconds:.0f} ms per "
        f"image, encoding in four poses included.{resolved}\n\n"
        + markdown_table(["change", "AUC features", "AUC registered", "flagged", "right match", "median LNCC"], rows)
        + "\n"
    )


def read(folder: SliceFolder, subjects: set[str]) -> tuple[torch.Tensor, list[str]]:
    """At most SLICES slices of each subject, evenly spread: images `(n, 1, SIDE, SIDE)` in [0, 1], subject ids."""
    rows: list[int] = []
    for subject in sorted(subjects):
        own = [i for i, s in enumerate(folder.subjects) if s == subject]
        rows += own[:: -(-len(own) // SLICES)]
    images = check_images(torch.stack([folder[i]["image"] for i in rows]))
    return normalise_intensity(images, "quantile"), [folder.subjects[i] for i in rows]


def auc(copies: torch.Tensor, novel: torch.Tensor) -> str:
    above = (copies[:, None] > novel).double() + 0.5 * (copies[:, None] == novel)
    return f"{float(above.mean()):.3f}"


if __name__ == "__main__":
    main()
