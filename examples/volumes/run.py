"""How well copies of real volumes are found: `make bench-volumes`. Writes RESULTS.md here.

Hippocampus crops of $MI_CALLBACK_DATA (msd_hippocampus), padded to one size, are split into training, held-out and
novel volumes; every one is another person. Copies of training volumes, every one changed, are looked up whole,
registered in three dimensions, and by their slices. The encoder is the bundled one, slice by slice.
"""

import os
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from mi_callback import MemorizationDetector, __version__, build_encoder
from mi_callback.auditing.volumes import score_volumes
from mi_callback.images.files import VolumeFolder, split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import VOLUME_PASTES, VOLUME_PERTURBATIONS
from mi_callback.images.preprocessing import check_images
from mi_callback.lightning.loggers import markdown_table
from mi_callback.scores import Scores
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson

SIDE, COPIES, SEED, SLICES = 48, 20, 0, 12
HERE = Path(__file__).parent
TRAINED_ON = 0.5
"""Share of the subjects on which the bundled encoder was trained (MODEL_CARD.md)."""
PARTS = (40, 40, 30)
"""Training, held-out and novel volumes, of people whom the encoder does not know."""
BY_SLICES = ("exact", "noise_0.02", "flip_horizontal", "flip_depth", "rotation_15", "combined")


def main() -> None:
    torch.set_num_threads(1)
    measured: dict[str, dict] = {"whole": {}, "slices": {}}
    folder = VolumeFolder(Path(os.environ["MI_CALLBACK_DATA"]) / "msd_hippocampus", (SIDE,) * 3)
    unknown = [i for i, known in enumerate(split_by_subject(folder.subjects, TRAINED_ON).tolist()) if not known]
    order = torch.randperm(len(unknown), generator=torch.Generator().manual_seed(SEED))
    rows = [unknown[i] for i in order.tolist()][: sum(PARTS)]
    images = torch.stack([folder[i]["image"] for i in rows])
    volumes = normalise_intensity(check_images(images, dims=3), "quantile")
    train, held_out, novel = volumes.split(PARTS)
    people = [str(i) for i in rows]
    subjects, others = people[: PARTS[0]], people[PARTS[0] : sum(PARTS[:2])]
    whole(measured["whole"], train, subjects, held_out, others, novel)
    by_slices(measured["slices"], train, held_out, novel)
    (HERE / "RESULTS.md").write_text(page(measured))


def whole(
    measured: dict, train: Tensor, subjects: list[str], held_out: Tensor, others: list[str], novel: Tensor
) -> None:
    """Each volume registered in three dimensions."""
    detector = MemorizationDetector(encoder=build_encoder("slices", slices=SLICES))
    start = time.perf_counter()
    detector.fit(train, subjects=subjects, held_out=held_out, held_out_subjects=others)
    fitted = (time.perf_counter() - start) / (len(train) + len(held_out))
    start = time.perf_counter()
    strangers = detector.score(novel)
    seconds = (time.perf_counter() - start) / len(novel)
    measured |= {"fit": fitted, "score": seconds, "false": float(strangers.flagged.double().mean())}
    measured["novel"] = strangers.verified.quantile(torch.tensor([0.5, 1.0], dtype=torch.float64)).tolist()
    measured["changes"] = {}
    for change in [*VOLUME_PERTURBATIONS, *VOLUME_PASTES]:
        found = detector.score(copies(change, train, novel))
        right = found.match == torch.arange(COPIES)
        measured["changes"][change] = figures(found.verified, strangers.verified, found, right)
        measured["changes"][change]["features"] = auc(found.similarity, strangers.similarity)
        print("whole", change, measured["changes"][change], flush=True)


def by_slices(measured: dict, train: Tensor, held_out: Tensor, novel: Tensor) -> None:
    """Each volume judged by its slices: every other one, across the first axis."""
    slices, of_train = sliced(train)
    detector = MemorizationDetector().fit(slices, subjects=[f"t{i}" for i in of_train], held_out=sliced(held_out)[0])
    real, of_real = sliced(held_out)
    measured["changes"] = {}
    strange, _ = score_volumes(detector, *sliced(novel), of_train, real, of_real)
    measured["false"] = float(strange.flagged.double().mean())
    measured["novel"] = strange.similarity.quantile(torch.tensor([0.5, 1.0], dtype=torch.float64)).tolist()
    for change in BY_SLICES:
        found, _ = score_volumes(detector, *sliced(copies(change, train, novel)), of_train, real, of_real)
        right = found.match == torch.arange(COPIES)
        measured["changes"][change] = figures(found.similarity, strange.similarity, found, right)
        print("slices", change, measured["changes"][change], flush=True)


def sliced(volumes: Tensor) -> tuple[Tensor, list[int]]:
    """Every other slice that is not empty, `(m, 1, h, w)`, and the volume of each."""
    found = [
        (slice_, i) for i, volume in enumerate(volumes) for slice_ in volume[0, ::2] if float(slice_.mean()) > 0.05
    ]
    return torch.stack([slice_ for slice_, _ in found])[:, None], [i for _, i in found]


def copies(change: str, train: Tensor, novel: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    if change in VOLUME_PERTURBATIONS:
        return VOLUME_PERTURBATIONS[change](train[:COPIES], generator)
    return VOLUME_PASTES[change](train[:COPIES], novel[:COPIES], generator)


def figures(copied: Tensor, novel: Tensor, scores: Scores, right: Tensor) -> dict[str, float]:
    flagged = int(scores.flagged.sum())
    low, high = clopper_pearson(flagged, len(scores))
    return {
        "auc": auc(copied, novel),
        "flagged": flagged / len(scores),
        "low": low,
        "high": high,
        "right": float(right.double().mean()),
        "median": float(copied.median()),
    }


def auc(copied: Tensor, novel: Tensor) -> float:
    """Probability that a copy is more similar than a novel volume; ties count one half."""
    difference = copied[:, None] - novel
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def page(measured: dict) -> str:
    whole, slices = measured["whole"], measured["slices"]
    lines = [
        f"""# Detection of copied volumes

`make bench-volumes`, seed {SEED}, {time.strftime("%Y-%m-%d")}, mi_callback {__version__}, torch {torch.__version__},
Python {platform.python_version()}, one CPU thread. Hippocampus crops (Medical Segmentation Decathlon), padded to
{SIDE}³: {PARTS[0]} training, {PARTS[1]} held-out and {PARTS[2]} novel volumes, every one another person, none of them
known to the encoder. {COPIES} copies of training volumes per change (`mi_callback.images.perturbations`,
`VOLUME_PERTURBATIONS`: rotations by 5° and elastic warps are about every axis, the others in the last two).
Flagged: p ≤ .05; intervals are 95 % (Clopper-Pearson).
Right volume: the training volume that was copied is the one that is named.

## Whole volumes, registered in three dimensions

Encoder: the bundled one on {SLICES} slices across each axis. Novel volumes flagged: {whole["false"]:.3f}; their LNCC:
median {whole["novel"][0]:.3f}, maximum {whole["novel"][1]:.3f}. {whole["fit"]:.1f} s per volume to fit (four views of
training volumes, eight poses, thrice, and registration of held-out ones), {whole["score"]:.1f} s per volume to score.
""",
        table(whole, features=True),
        f"""
## By slices

Every other slice across the first axis; a volume's similarity is the share of its slices that match one training volume
in order. Novel volumes flagged: {slices["false"]:.3f}; their share in order: median {slices["novel"][0]:.2f}, maximum
{slices["novel"][1]:.2f}.
""",
        table(slices, features=False),
        "",
    ]
    return "\n".join(lines)


def table(measured: dict, features: bool) -> str:
    columns = ["change", "AUC", "flagged", "right volume", "median"] + (["AUC of features alone"] if features else [])
    rows = [
        [
            change,
            f"{one['auc']:.3f}",
            f"{one['flagged']:.2f} ({one['low']:.2f}–{one['high']:.2f})",
            f"{one['right']:.2f}",
            f"{one['median']:.3f}",
            *([f"{one['features']:.3f}"] if features else []),
        ]
        for change, one in measured["changes"].items()
    ]
    return markdown_table(columns, rows)


if __name__ == "__main__":
    main()
