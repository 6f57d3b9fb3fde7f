"""Do the numbers keep their promise? `make bench-statistics` (hours). Writes RESULTS.md beside this file.

Novel images, of people in neither the training nor the held-out part, are scored over and over, in random splits by
subject: how often is one flagged, how often is a set called memorized, how often does a run raise the alarm? Then
copies are mixed in, and the generator is made too smooth: how many of the flags are false?

Finished tables are kept in outputs/statistics, so an interrupted run goes on where it stopped.
"""

import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from mi_callback import MemorizationDetector, __version__
from mi_callback.errors import CalibrationError
from mi_callback.images.files import SliceFolder, split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import affine, blur, gaussian_noise
from mi_callback.images.preprocessing import check_images
from mi_callback.lightning.loggers import markdown_table
from mi_callback.retrieval.features import Features, concatenate
from mi_callback.statistics.conformal import at_most
from mi_callback.statistics.multiplicity import reject

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.numbers import kept, timed

SPLITS, VERIFIED_SPLITS, SHIFTED_SPLITS, LOOKS, SEED = 200, 100, 20, 20, 0
ALPHAS = (0.01, 0.05, 0.1)
SIDE = 96
SETS = {  # folder → share of its subjects that trained the bundled encoder, slices of a subject, slicing axis
    "ixi_t1/slices": (0.5, 3, 2),
    "spider_lumbar/slices": (0.0, 4, 2),
    "msd_hippocampus/volumes": (0.5, 1, 1),
    "open_ms/slices": (0.0, 8, 2),
}
NULLS: dict[str, dict[str, Any]] = {
    "held_out": {"null": "held_out"},
    "cross_fit": {"null": "cross_fit"},
    "train_halves, shrunk": {"null": "train_halves"},
    "train_halves, ZCA (paper)": {"null": "train_halves", "whitening": "zca"},
}
HERE, KEPT = Path(__file__).parent, Path("outputs/statistics")

Table = list[list[Any]]


def main() -> None:
    root = os.environ.get("MI_CALLBACK_DATA")
    if not root:
        raise SystemExit(
            "needed MI_CALLBACK_DATA, a folder with the sets of examples/statistics/run.py; it is not set."
        )
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # leaks and small nulls are wanted here, thousands of times
    sets = {name: Slices.read(Path(root) / name, *how) for name, how in SETS.items()}
    large = {name: sets[name] for name in list(SETS)[:3]}  # seven patients (open_ms) cannot calibrate anything
    sections = [("Gaussian features: novel images flagged", GAUSSIAN, table_of("gaussian", gaussian_rates))]
    for name, slices in sets.items():
        sections.append((f"{name}: novel images flagged", REAL, table_of(f"rates {name}", partial(real_rates, slices))))
    table = table_of("discoveries", partial(discoveries, {"Gaussian": Gaussian()} | large, SPLITS, verify=False))
    sections.append(("Copies among the samples: false discoveries", DISCOVERIES, table))
    sections.append(("Whole runs: alarms and verdicts", RUNS, table_of("runs", partial(runs, large))))
    for name, slices in large.items():
        table = table_of(f"verified {name}", partial(verified_rates, slices))
        sections.append((f"{name}: novel images flagged, with verification", VERIFIED, table))
    shifted = {"ixi_t1/slices": sets["ixi_t1/slices"]}
    table = table_of("verified discoveries", partial(discoveries, shifted, SHIFTED_SPLITS, verify=True))
    sections.append(("Copies among the samples, with verification", VERIFIED_DISCOVERIES, table))
    head = (
        f"# Statistics, tested\n\n`make bench-statistics`, seed {SEED}, {time.strftime('%Y-%m-%d')}, mi_callback "
        f"{__version__}, torch {torch.__version__}, lightning {lightning.__version__}, Python "
        f"{platform.python_version()}. Bundled encoder; real slices of subjects that it was not trained on.\n\n"
        f"Rates are means over {SPLITS} random splits by subject into training, held-out and novel thirds, with 95 % "
        "intervals from the spread over splits (which share subjects, so the intervals are a little too narrow). "
        "A subject counts once, however many slices it has.\n"
    )
    body = [f"## {title}\n\n{text}\n\n{markdown_table(table[0], table[1:])}\n" for title, text, table in sections]
    (HERE / "RESULTS.md").write_text("\n".join([head, *body]))
    print((HERE / "RESULTS.md").read_text())


def table_of(name: str, make: Callable[[], Table]) -> Table:
    """A table from the last run, or a new one."""
    return kept(KEPT / f"{name.replace('/', ' ')}.json", timed(name, make))


# Data ----------------------------------------------------------------------------------------------------------------


class Slices:
    """Features of all slices of a set, as they are and changed, so that a split costs no encoding."""

    def __init__(self, images: Tensor, subjects: list[str]) -> None:
        self.images, self.subjects = images, subjects
        self._features: dict[str, Features] = {}

    @classmethod
    def read(cls, path: Path, seen: float, most: int, axis: int) -> "Slices":
        folder = SliceFolder(path, size=(SIDE, SIDE), axis=axis)
        if seen:
            folder = folder.where(~split_by_subject(folder.subjects, seen))
        rows: list[int] = []
        for subject in dict.fromkeys(folder.subjects):
            own = [i for i, s in enumerate(folder.subjects) if s == subject]
            middle = [own[len(own) * (2 * k + 1) // (2 * most)] for k in range(most)]  # evenly spread, not the ends
            rows += sorted(set(middle))
        images = check_images(torch.stack([folder[i]["image"] for i in rows]))
        return cls(normalise_intensity(images, "quantile"), [folder.subjects[i] for i in rows])

    def features(self, change: str = "none") -> Features:
        if change not in self._features:
            generator = torch.Generator().manual_seed(SEED)
            changed = {
                "none": lambda x: x,
                "noise": lambda x: gaussian_noise(x, 0.02, generator),
                "smooth": lambda x: blur(x, 1.5),
                "small": lambda x: affine(x, scale_x=0.9, scale_y=0.9),
            }[change](self.images)
            # Only training images need views, and only unchanged ones are.
            views = change == "none"
            self._features[change] = MemorizationDetector().features(changed, subjects=self.subjects, views=views)
        return self._features[change]

    def splits(self, n: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Training, held-out and novel slices, disjoint by subject, a third each."""
        people = sorted(set(self.subjects))
        third = len(people) // 3
        for seed in range(n):
            order = torch.randperm(len(people), generator=torch.Generator().manual_seed(SEED + seed)).tolist()
            parts = order[:third], order[third : 2 * third], order[2 * third : 3 * third]
            groups = [{people[i] for i in part} for part in parts]
            train, held_out, novel = (torch.tensor([s in group for s in self.subjects]) for group in groups)
            yield train, held_out, novel


class Gaussian(Slices):
    """Features of 600 subjects, one image each; `smooth` leaves little of half of their 64 dimensions."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(SEED)
        plain = gaussian(600, 64, generator)
        self.subjects = [str(i) for i in range(len(plain))]
        layer = plain.layers["gaussian"]
        self._features = {
            change: replace(plain, layers={"gaussian": changed}, subjects=self.subjects)
            for change, changed in {
                "none": layer,
                "noise": layer + 0.3 * torch.randn(layer.shape, generator=generator),
                "smooth": torch.cat([layer[..., :32], 0.3 * layer[..., 32:]], dim=-1),
            }.items()
        }


def gaussian(n: int, d: int, generator: torch.Generator, scale: float = 1.0) -> Features:
    """Features without images, one for each subject."""
    layer = scale * torch.randn(1, n, d, generator=generator)
    return Features({"gaussian": layer}, torch.randint(0, 256, (n, 4, 4), dtype=torch.uint8), None, None)


def detector(**options: Any) -> MemorizationDetector:
    return MemorizationDetector(**({"encoder": "pixels", "verify": False, "null_size": None} | options))


# Rates ---------------------------------------------------------------------------------------------------------------

RATES = ["null", "null subjects", *(f"α = {alpha:g}" for alpha in ALPHAS)]
GAUSSIAN = (
    "Training, held-out and novel features from one 64-dimensional normal distribution, n training and 99 held-out "
    "subjects of one image each, whitened; feature similarity decides. `undefined`: refused, in-sample whitening of "
    "n ≤ d + 1 images. `–`: α cannot be resolved with so few subjects: nothing is flagged, the result is inconclusive."
)
REAL = "Feature similarity decides (`verify=False`); four poses."
VERIFIED = f"The default detector, {VERIFIED_SPLITS} splits: LNCC after registration decides."


def rates(
    rounds: Iterator[tuple[Features, Features, Features]], nulls: dict[str, dict[str, Any]], **options: Any
) -> Table:
    """A row per null: share of novel images flagged at each level, over all rounds (train, held out, novel)."""
    shares: dict[str, list[list[float]]] = {name: [] for name in nulls}
    resolved: dict[str, list[bool]] = {}
    sizes: dict[str, int] = {}
    for train, held_out, novel in rounds:
        for name, null in nulls.items():
            kind = null["null"]
            orbit = train if kind != "held_out" else train.in_pose(0)
            try:
                fitted = detector(**options, **null).fit_features(orbit, held_out)
            except CalibrationError:
                continue
            p = fitted.score_features(novel).p_value
            shares[name].append([subject_share(at_most(p, alpha), novel.subjects) for alpha in ALPHAS])
            resolved[name] = [fitted.null.resolves(alpha) for alpha in ALPHAS]
            sizes[name] = fitted.null.n_subjects
    rows: Table = [RATES]
    for name in nulls:
        if not shares[name]:
            rows.append([name, "–", *["undefined"] * len(ALPHAS)])
            continue
        cells = [
            interval([share[k] for share in shares[name]]) if resolved[name][k] else "–" for k in range(len(ALPHAS))
        ]
        rows.append([name, sizes[name], *cells])
    return rows


def gaussian_rates(d: int = 64, held_out: int = 99) -> Table:
    table: Table = [["n / d", *RATES]]
    for ratio in (0.3, 1, 3, 10, 20):
        generator = torch.Generator().manual_seed(SEED)
        n = round(ratio * d)
        rounds = (
            (gaussian(n, d, generator), gaussian(held_out, d, generator), gaussian(100, d, generator))
            for _ in range(SPLITS)
        )
        table += [[f"{ratio:g}", *row] for row in rates(rounds, NULLS, poses="none", encoder="pixels")[1:]]
    return table


def parts(slices: Slices, n: int) -> Iterator[tuple[Features, Features, Features]]:
    features = slices.features()
    for split in slices.splits(n):
        train, held_out, novel = (features.where(rows) for rows in split)
        yield train, held_out, novel


def real_rates(slices: Slices) -> Table:
    return rates(parts(slices, SPLITS), NULLS, poses="flips")


def verified_rates(slices: Slices) -> Table:
    return rates(parts(slices, VERIFIED_SPLITS), {"held_out": NULLS["held_out"]}, poses="flips", verify=True)


def subject_share(flagged: Tensor, subjects: list[str] | None) -> float:
    """Share of flagged images, every subject weighing the same."""
    if subjects is None:
        return float(flagged.double().mean())
    own: dict[str, list[float]] = {}
    for subject, flag in zip(subjects, flagged.tolist(), strict=True):
        own.setdefault(subject, []).append(float(flag))
    return sum(sum(flags) / len(flags) for flags in own.values()) / len(own)


def interval(values: list[float]) -> str:
    sample = torch.tensor(values, dtype=torch.float64)
    half = 1.96 * float(sample.std()) / len(sample) ** 0.5 if len(sample) > 1 else float("nan")
    return f"{float(sample.mean()):.3f} ± {half:.3f}"


# Discoveries ---------------------------------------------------------------------------------------------------------

DISCOVERIES = (
    "The samples are novel slices, as from a generator that copies nothing; where the table says so, slices of twelve "
    "training subjects are among them. False: mean share of false ones among the flagged samples (by BH and BY, at "
    "10 %), or among the subjects that the contrast discovers (at 10 %). Found: share of copies, or of copied "
    "subjects, so flagged. Memorized: share of splits with this verdict, without and with the contrast as second "
    "opinion. Smooth: every sample blurred by 1.5 px (Gaussian: half of the dimensions at .3 of their size); small: "
    "shrunk to 90 %. Feature similarity decides."
)
VERIFIED_DISCOVERIES = f"As before with the default detector, {SHIFTED_SPLITS} splits: LNCC after registration decides."
COPIED = 12
"""Training subjects whose slices are put among the samples."""


def discoveries(sets: dict[str, Slices], splits: int, verify: bool) -> Table:
    columns = ["BH false", "BH found", "BY false", "BY found", "contrast false", "contrast found"]
    table: Table = [
        ["set", "generator", "copies", *columns, "contrast p ≤ .05", "memorized", "the same, with contrast"]
    ]
    for name, slices in sets.items():
        for generator in ("none", "smooth") if isinstance(slices, Gaussian) else ("none", "smooth", "small"):
            for copies in (None, "noise") if verify else (None, "none", "noise"):
                outcome = [one_discovery(slices, split, generator, copies, verify) for split in slices.splits(splits)]
                means = [over_splits([o[k] for o in outcome]) for k in range(len(outcome[0]))]
                kind = {None: "no", "none": "exact", "noise": "noise .02"}[copies]
                table.append([name.split("/")[0], {"none": "as real"}.get(generator, generator), kind, *means])
                print(table[-1], flush=True)
    return table


def one_discovery(
    slices: Slices, split: tuple[Tensor, Tensor, Tensor], generator: str, copies: str | None, verify: bool
) -> list[float | None]:
    train, held_out, novel = split
    samples = slices.features(generator).where(novel)
    n_novel = len(samples)
    training = slices.features().where(train)
    copied: set[str] = set()
    if copies is not None:
        copied = set(sorted(set(training.subjects))[:COPIED])
        source = slices.features(copies).where(train)
        samples = concatenate(samples, source.where(torch.tensor([s in copied for s in source.subjects])))
    poses = "none" if isinstance(slices, Gaussian) else "flips"
    fitted = detector(poses=poses, contrast=True, alpha=0.1, verify=verify)
    fitted.fit_features(training, slices.features().where(held_out))
    scores = fitted.score_features(samples)
    row: list[float | None] = []
    for procedure in ("bh", "by"):
        flagged = reject(scores.p_value, 0.1, procedure)
        row += [float(flagged[:n_novel].sum()) / max(1, int(flagged.sum())), found(flagged[n_novel:])]
    discovered = {scores.match_subject[i] for i in scores.target_decoy.flagged.nonzero().flatten().tolist()}
    row += [
        len(discovered - copied) / max(1, len(discovered)),
        len(discovered & copied) / len(copied) if copied else None,
        float(scores.target_decoy.p_value <= 0.05),
        float(replace(scores, target_decoy=None).verdict == "memorized"),
        float(scores.verdict == "memorized"),
    ]
    return row


def over_splits(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return interval(known) if known else "–"


def found(flagged: Tensor) -> float | None:
    return float(flagged.double().mean()) if len(flagged) else None


# Runs ----------------------------------------------------------------------------------------------------------------

RUNS = (
    f"A run is {LOOKS} validations with 64 samples each of a generator that copies nothing: drawn with replacement "
    "from the novel slices (so that near-duplicates occur). Alarm: share of runs in which it was ever raised (at most "
    ".05 promised). Memorized: share of single validations with this verdict (at most .05), and share of runs that had "
    "one, which no one promises: it is what looking every time does. Collapsed: the 64 samples of a validation are "
    "one image with a little noise. α = .1."
)


def runs(sets: dict[str, Slices]) -> Table:
    table: Table = [["set", "samples", "alarm in a run", "memorized at a look", "memorized in a run"]]
    for name, slices in sets.items():
        for kind in ("independent", "collapsed"):
            outcome = [one_run(slices, split, kind, seed) for seed, split in enumerate(slices.splits(SPLITS))]
            table.append([name.split("/")[0], kind, *(interval([o[k] for o in outcome]) for k in range(3))])
            print(table[-1], flush=True)
    return table


def one_run(slices: Slices, split: tuple[Tensor, Tensor, Tensor], kind: str, seed: int) -> list[float]:
    train, held_out, novel = split
    generator = torch.Generator().manual_seed(seed)
    features = slices.features()
    fitted = detector(poses="flips", alpha=0.1).fit_features(features.where(train), features.where(held_out))
    noisy = slices.features("noise").where(novel)
    plain = features.where(novel)
    alarms, verdicts = [], []
    for look in range(1, LOOKS + 1):
        if kind == "independent":
            samples = plain.where(torch.randint(len(plain), (64,), generator=generator))
        else:
            row = int(torch.randint(len(plain), (1,), generator=generator))
            samples = concatenate(plain.where(torch.full((32,), row)), noisy.where(torch.full((32,), row)))
        scores = fitted.score_features(samples)
        alarms.append(scores.alarm(look))
        verdicts.append(scores.verdict == "memorized")
    return [float(any(alarms)), sum(verdicts) / LOOKS, float(any(verdicts))]


if __name__ == "__main__":
    main()
