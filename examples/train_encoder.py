"""Train the bundled encoder for copy detection from folders of slices or volumes.

    python examples/train_encoder.py DATA/slices DATA/volumes:0 --out mi_callback/encoders/weights --steps 6000

Each step embeds two independently changed versions of the same slices; a slice must be closer to its own other
version than to any other slice of the batch (InfoNCE), and all embeddings spread out (KoLeo, Sablayrolles et al.
2019). Neighbouring slices of one subject sit in the same batch as hard negatives. Subjects are split by a hash
of their id: those held out are never trained on, and measure the encoder at the end (see the model card).

The run is resumable: the same command goes on from `--state` until `--steps` are done, then measures and writes
`bundled.safetensors` and `MODEL_CARD.md` into `--out`.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from mi_callback.encoders import Encoder, build_encoder
from mi_callback.encoders.bundled import SIZE, TAPPED, WEIGHTS, WIDTHS, CopyNet
from mi_callback.encoders.pooling import generalised_mean
from mi_callback.images import perturbations as change
from mi_callback.images.files import SliceFolder, split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.poses import orbit
from mi_callback.images.preprocessing import check_images, preprocess
from mi_callback.lightning.loggers import markdown_table
from mi_callback.retrieval.extraction import extract
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import search
from mi_callback.retrieval.whitening import WhiteningKind

TEMPERATURE = 0.07
KOLEO_WEIGHT = 0.3
PAIRS = 64
RUN = 4  # slices of one subject that enter a batch together


@dataclass
class Slices:
    """Slices of one folder in memory: uint8 (n, SIZE, SIZE), subject by subject and in slice order."""

    name: str
    images: Tensor
    subjects: list[str]


class CopyEmbedding(nn.Module):
    """CopyNet with a training head over the pooled stages that the encoder taps."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.network = CopyNet(widths)
        pooled = sum(widths[1:])
        # Standardised per batch, as whitening does when the encoder is used.
        self.head = nn.Sequential(nn.BatchNorm1d(pooled, affine=False), nn.Linear(pooled, 128))

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # 1.7 times the speed where the processor has it
            maps = self.network(images.contiguous(memory_format=torch.channels_last))[1:]
        pooled = [generalised_mean(stage.float().flatten(2)) for stage in maps]
        return F.normalize(self.head(torch.cat(pooled, dim=1)), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folder, or folder:axis for volumes (0 sagittal, 1 coronal, 2 axial)")
    parser.add_argument("--out", type=Path, default=Path("encoder"))
    parser.add_argument("--state", type=Path, default=Path("encoder/training.pt"), help="resumable training state")
    parser.add_argument("--steps", type=int, default=6000, help="in all; the learning rate follows them")
    parser.add_argument("--widths", type=int, nargs=len(WIDTHS), default=WIDTHS, help="channels of the stages")
    parser.add_argument(
        "--against", type=Path, nargs="*", default=[], help="folders of other trainings, to compare in the card"
    )
    parser.add_argument("--share", type=float, default=0.5, help="share of subjects trained on; the rest measure")
    parser.add_argument("--unseen", nargs="*", default=[], help="folders that are only measured on")
    parser.add_argument("--source", nargs="*", default=[], help="lines on the data and their licences, for the card")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    folders = [load(argument) for argument in options.data]
    trained = [keep(folder, split_by_subject(folder.subjects, options.share)) for folder in folders]
    for folder, part in zip(folders, trained, strict=True):
        print(
            f"{folder.name}: {len(part.images)} of {len(folder.images)} slices, "
            f"{len(set(part.subjects))} of {len(set(folder.subjects))} subjects"
        )
    options.state.parent.mkdir(parents=True, exist_ok=True)
    model, history, minutes = train(trained, options)
    options.out.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.network.state_dict().items()}
    save_file(weights, options.out / WEIGHTS, metadata={"steps": str(history[-1][0])})
    unseen = [keep(folder, ~split_by_subject(folder.subjects, options.share)) for folder in folders]
    unseen += [load(argument) for argument in options.unseen]
    measured = [row for folder in unseen if len(set(folder.subjects)) >= 4 for row in measure(options.out, folder)]
    ablated = [row for folder in unseen[-1:] for row in ablate(options.out, folder)]
    compared = [row for folder in unseen[-1:] for row in compare(options.against, folder)]
    card = model_card(options, trained, history, minutes, measured, ablated, compared)
    (options.out / "MODEL_CARD.md").write_text(card)
    print(f"{card}\nwrote {options.out / WEIGHTS} and MODEL_CARD.md")


def load(argument: str) -> Slices:
    root, _, axis = argument.rpartition(":") if argument[-2:-1] == ":" else (argument, "", "2")
    folder = SliceFolder(root, axis=int(axis))
    if folder.subjects is None:
        raise SystemExit(f"{root}: the subject of some slices is unknown; add a manifest.csv (file, subject).")
    order = sorted(range(len(folder)), key=lambda i: (folder.slices[i].subject, str(folder.slices[i].path)))
    order = [i for i in order if _in_the_middle(folder, i)]
    images = [
        preprocess(check_images(folder[i]["image"][None]), (SIZE, SIZE))
        for i in tqdm(order, desc=argument, leave=False)
    ]
    pixels = torch.cat(images)[:, 0].mul(255).round().to(torch.uint8)
    return Slices(argument, pixels, [folder.slices[i].subject for i in order])


def _in_the_middle(folder: SliceFolder, i: int) -> bool:
    """Of a volume, every third slice of the middle half: the rest is empty or redundant."""
    path, _, position = folder.slices[i]
    if position is None:
        return True
    depth = sum(s.path == path for s in folder.slices[max(0, i - 400) : i + 400])
    return depth / 4 <= position < 3 * depth / 4 and position % 3 == 0


def keep(folder: Slices, mask: Tensor) -> Slices:
    subjects = [subject for subject, kept in zip(folder.subjects, mask.tolist(), strict=True) if kept]
    return Slices(folder.name, folder.images[mask], subjects)


def train(folders: list[Slices], options: argparse.Namespace) -> tuple[CopyEmbedding, list[tuple[int, float]], float]:
    """The trained model, InfoNCE every 50 steps, and the minutes that it took."""
    torch.manual_seed(options.seed)
    model = CopyEmbedding(tuple(options.widths)).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(options.seed)
    step, used, history = 0, 0.0, []
    if options.state.is_file():
        state = torch.load(options.state, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        step, used, history = state["step"], state["used"], state["history"]
    bar = tqdm(total=options.steps, initial=step, unit="step", desc="training", mininterval=10)
    model.train()
    while step < options.steps:
        began = time.monotonic()
        optimiser.param_groups[0]["lr"] = 2e-3 * one_cycle(step / options.steps)
        batch = draw(folders, generator)
        first, second = augment(batch, generator, strength=0.2), augment(batch, generator, strength=1.0)
        embedding = model(torch.cat([first, second]))
        contrast, spread = info_nce(embedding), koleo(embedding)
        optimiser.zero_grad()
        (contrast + KOLEO_WEIGHT * spread).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        used += time.monotonic() - began
        bar.update()
        if step % 50 == 0:
            history.append((step, contrast.item()))
            bar.set_postfix(step=step, info_nce=f"{contrast.item():.3f}", koleo=f"{spread.item():.3f}")
        if step % 100 == 0 or step == options.steps:
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "history": history,
                    "step": step,
                    "used": used,
                    "generator": generator.get_state(),
                },
                options.state,
            )
    return model.eval(), history, used / 60


def one_cycle(progress: float) -> float:
    """Linear warm-up over the first 5 %, then a cosine to zero."""
    if progress < 0.05:
        return progress / 0.05 + 1e-3
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(1.0, (progress - 0.05) / 0.95))).item())


def draw(folders: list[Slices], generator: torch.Generator) -> Tensor:
    """PAIRS slices in runs of RUN consecutive slices, so that neighbours and siblings are among the negatives.

    A batch comes from at most two folders: telling a spine from a brain teaches nothing.
    """
    sizes = torch.tensor([len(folder.images) for folder in folders], dtype=torch.float)
    chosen = torch.multinomial(sizes.sqrt(), min(2, len(folders)), generator=generator).tolist()
    runs = PAIRS // RUN // len(chosen)
    picked = []
    for k in chosen:
        # Without repetition: the same slice twice would be its own negative.
        starts = torch.randperm(max(1, len(folders[k].images) // RUN), generator=generator)[:runs] * RUN
        places = (starts[:, None] + torch.arange(RUN)).flatten().clamp_max(len(folders[k].images) - 1).unique()
        picked.append(folders[k].images[places])
    return torch.cat(picked)[:, None].float() / 255


def augment(x: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """What a copy may have gone through, and what scanners do; each change hits a random part of the batch."""
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    def around(spread: float) -> Tensor:
        return uniform(-spread * strength, spread * strength)

    def sometimes(changed: Tensor, original: Tensor, probability: float) -> Tensor:
        hit = torch.rand(n, 1, 1, 1, generator=generator) < probability
        return torch.where(hit, changed, original)

    # Zoomed in more than out: a copy is cropped more often than it is shrunk.
    zoom, stretch = torch.exp(around(0.3) + 0.15 * strength), torch.exp(around(0.08))
    warped = change.affine(
        x,
        rotation=around(35),
        scale_x=zoom * stretch,
        scale_y=zoom / stretch,
        shift_x=around(0.2),
        shift_y=around(0.2),
        shear=around(0.1),
    )
    x = sometimes(warped, x, 0.9)
    x = sometimes(change.elastic(x, uniform(0, 2 * strength), generator), x, 0.2)
    x = sometimes(change.paste(x, x.roll(RUN, 0), uniform(0, 0.5 * strength), generator), x, 0.2)
    x = sometimes(change.blend(x, x.roll(RUN, 0), uniform(0, 0.4 * strength)), x, 0.1)
    x = sometimes(change.gamma(x, torch.exp(around(0.5))), x, 0.4)
    x = sometimes(change.remap(x, generator), x, 0.25 * strength)
    x = sometimes(change.invert(x), x, 0.1 * strength)
    x = sometimes(change.bias_field(x, uniform(0, 0.4 * strength), generator), x, 0.3)
    x = sometimes(change.blur(x, uniform(0.1, 0.1 + 1.2 * strength)), x, 0.3)
    x = sometimes(change.k_space_truncation(x, 1 - uniform(0, 0.6 * strength)), x, 0.2)
    x = sometimes(change.rician_noise(x, uniform(0, 0.05 * strength), generator), x, 0.4)
    return normalise_intensity(x, "quantile")  # as the encoder will see it


def info_nce(embedding: Tensor) -> Tensor:
    """Cross-entropy of finding one's partner (n + i for i) among all others."""
    logits = embedding @ embedding.T / TEMPERATURE
    logits.fill_diagonal_(float("-inf"))
    n = len(embedding) // 2
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def koleo(embedding: Tensor) -> Tensor:
    """Kozachenko-Leonenko entropy term: push each embedding away from its nearest stranger."""
    n = len(embedding) // 2
    similarity = (embedding @ embedding.T).detach()
    similarity.fill_diagonal_(-1)
    partner = torch.arange(2 * n).roll(n)
    similarity[torch.arange(2 * n), partner] = -1
    nearest = similarity.argmax(dim=1)
    return -torch.log(F.pairwise_distance(embedding, embedding[nearest]) + 1e-6).mean()


def measure(out: Path, folder: Slices) -> list[list[str]]:
    """Retrieval among subjects that were not trained on: half of them are the training set, the others are novel."""
    inside = split_by_subject(folder.subjects, 0.5, seed=1)
    known, novel = keep(folder, inside), keep(folder, ~inside)
    encoder = build_encoder("bundled", checkpoint=out / WEIGHTS)

    def features(images: Tensor, subjects: list[str], poses: list[str]) -> Features:
        return extract(images[:, None].float() / 255, encoder, poses, subjects=subjects)

    reference = Reference.fit(features(known.images, known.subjects, ["identity"]), "shrunk")
    clean = search(reference, features(novel.images, novel.subjects, orbit("flips")), "geometric").similarity
    generator = torch.Generator().manual_seed(0)
    queries = torch.randperm(len(known.images), generator=generator)[:200]
    subjects = [known.subjects[i] for i in queries]
    rows = []
    for name, perturb in change.PERTURBATIONS.items():
        copies = perturb(known.images[queries][:, None].float() / 255, generator)[:, 0].mul(255).round().to(torch.uint8)
        found = search(reference, features(copies, subjects, orbit("flips")), "geometric", candidates=8)
        first = (found.match == queries).float().mean()
        recall = (found.candidates == queries[:, None]).any(dim=1).float().mean()
        above = (found.similarity[:, None] > clean).double() + 0.5 * (found.similarity[:, None] == clean)
        rows.append(
            [
                _short(folder.name),
                name,
                str(len(queries)),
                f"{first:.3f}",
                f"{recall:.3f}",
                f"{above.mean():.3f}",
            ]
        )
    return rows


HARD = ("noise_0.02", "gamma_0.7", "half_resolution", "crop_0.9", "shift_0.1", "rotation_15", "inverted", "combined")
"""Changes by which settings are compared."""


def ablate(out: Path, folder: Slices) -> list[list[str]]:
    """Retrieval as in `measure`, mean over `HARD`, under other whitenings, layers and poolings than the default."""
    hard = HardCopies(folder)
    rows = []
    for pooling in ("gem", "mean", "mean_std"):
        encoder = build_encoder("bundled", checkpoint=out / WEIGHTS)
        encoder.pooling = pooling
        features = hard.features(encoder)
        variants = [("shrunk", TAPPED)]
        if pooling == "gem":
            variants += [(whitening, TAPPED) for whitening in ("zca", "pca", "standard", "none")]
            variants += [("shrunk", layers) for layers in (TAPPED[:1], TAPPED[1:2], TAPPED[2:], TAPPED[:2], TAPPED[1:])]
        for whitening, layers in variants:
            part = {
                name: replace(f, layers={layer: f.layers[layer] for layer in layers}) for name, f in features.items()
            }
            stages = "+".join(str(TAPPED.index(layer) + 2) for layer in layers)
            rows.append([_short(folder.name), pooling, whitening, stages, *hard.found(part, whitening)])
    return rows


def compare(trainings: list[Path], folder: Slices) -> list[list[str]]:
    """The same under the default settings, for networks of other widths."""
    hard = HardCopies(folder)
    rows = []
    for training in trainings:
        encoder = build_encoder("bundled", checkpoint=training / WEIGHTS)
        with safe_open(training / WEIGHTS, framework="pt") as file:
            steps = (file.metadata() or {}).get("steps", "?")
        network = encoder.network
        widths = ", ".join(str(stage.norm.num_features) for stage in network.stages)
        parameters = f"{sum(p.numel() for p in network.parameters()):,}"
        rows.append([_short(folder.name), widths, parameters, steps, *hard.found(hard.features(encoder), "shrunk")])
    return rows


class HardCopies:
    """Up to 200 slices of half of the subjects under each change of `HARD`, to be looked up among that half."""

    def __init__(self, folder: Slices) -> None:
        inside = split_by_subject(folder.subjects, 0.5, seed=1)
        known, novel = keep(folder, inside), keep(folder, ~inside)
        generator = torch.Generator().manual_seed(0)
        self.subjects = known.subjects
        self.queries = torch.randperm(len(known.images), generator=generator)[:200]
        self.images = {"known": known.images[:, None].float() / 255, "novel": novel.images[:, None].float() / 255}
        copied = self.images["known"][self.queries]
        self.images |= {name: change.PERTURBATIONS[name](copied, generator) for name in HARD}

    def features(self, encoder: Encoder) -> dict[str, Features]:
        return {name: extract(images, encoder, orbit("flips")) for name, images in self.images.items()}

    def found(self, features: dict[str, Features], whitening: WhiteningKind) -> tuple[str, str]:
        """Recall among eight candidates, and AUC against novel slices, mean over the changes."""
        reference = Reference.fit(replace(features["known"], subjects=self.subjects).in_pose(0), whitening)
        clean = search(reference, features["novel"], "geometric").similarity
        found = [search(reference, features[name], "geometric", candidates=8) for name in HARD]
        recall = [(f.candidates == self.queries[:, None]).any(dim=1).double().mean() for f in found]
        areas = [(f.similarity[:, None] > clean).double().mean() for f in found]
        return f"{sum(recall) / len(recall):.3f}", f"{sum(areas) / len(areas):.3f}"


CARD = """# The bundled encoder

CopyNet: {parameters:,} parameters, one input channel, {size} px, stages of {widths} channels. Features are the
GeM-pooled stages 2 to 4. Trained for copy detection by `examples/train_encoder.py`.

## Data

{data}

Subjects for which `split_by_subject(subjects, {share})` is true were trained on, the others never.

{sources}

## Training

InfoNCE (temperature {temperature}) + {koleo} KoLeo, {pairs} pairs a step in runs of {run} consecutive slices, AdamW
2e-3 with warm-up and cosine, {steps} steps in {minutes:.0f} minutes on {threads} CPU thread(s), bfloat16, seed {seed},
torch {torch}, {date}. InfoNCE at the end: {loss:.3f} (mean of the last five readings).

## Retrieval on subjects that were not trained on

Half of the subjects are the training set; up to 200 of their slices are changed and looked up in the flip orbit. Right
match: the most similar training slice is the copied one. Recall at 8: it is among the eight most similar ones.
AUC: similarity of copies against that of slices of the other subjects. Features alone, no registration.

{measured}

## Ablations

The same on subjects that were not trained on, mean over {hard}.
Pooling, whitening and stages may be chosen. The first row is the default.

{ablated}

{compared}

## Limits

Trained on the anatomies listed above, from few scanners. Flips and quarter turns are left to poses and views. The
training data carry attribution and share-alike licences: name them when you pass the weights on.
"""


def model_card(
    options: argparse.Namespace,
    trained: list[Slices],
    history: list[tuple[int, float]],
    minutes: float,
    measured: list[list[str]],
    ablated: list[list[str]],
    compared: list[list[str]],
) -> str:
    data = [[_short(f.name), str(len(f.images)), str(len(set(f.subjects)))] for f in trained]
    return CARD.format(
        parameters=sum(p.numel() for p in CopyNet(options.widths).parameters()),
        size=SIZE,
        widths=tuple(options.widths),
        data=markdown_table(["folder", "slices", "subjects"], data),
        share=options.share,
        sources="\n".join(f"- {line}" for line in options.source),
        temperature=TEMPERATURE,
        koleo=KOLEO_WEIGHT,
        pairs=PAIRS,
        run=RUN,
        minutes=minutes,
        threads=options.threads,
        steps=history[-1][0],
        seed=options.seed,
        torch=torch.__version__,
        date=time.strftime("%Y-%m-%d"),
        loss=sum(loss for _, loss in history[-5:]) / len(history[-5:]),
        measured=markdown_table(["folder", "change", "copies", "right match", "recall at 8", "AUC"], measured),
        hard=", ".join(HARD),
        ablated=markdown_table(["folder", "pooling", "whitening", "stages", "recall at 8", "AUC"], ablated),
        compared="Networks of other widths, trained the same for as many steps as the table says:\n\n"
        + markdown_table(["folder", "widths", "parameters", "steps", "recall at 8", "AUC"], compared)
        if compared
        else "Widths and depths were not compared.",
    )


def _short(folder: str) -> str:
    return "/".join(Path(folder).parts[-2:])


if __name__ == "__main__":
    main()
