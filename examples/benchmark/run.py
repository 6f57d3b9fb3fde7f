"""What looking costs, as ratios within one run: `make bench`. Writes RESULTS.md here.

Everything is measured on one thread, in processor time: a fast and a busy machine give about the same ratios. The unit
is one plain pass: reading, scaling and encoding of one image of 96 × 96 pixels, without windows, poses and descriptor.

- Ours: `fit` for each training image, and for each sample encoding, search and registration.
- The paper's recipe (Deo et al., arXiv 2602.13066), rewritten plainly: a ViT-B/16 at 224 pixels with random weights,
  layers 3, 7 and 11, ZCA, whole matrices of cosines, the geometric mean.
- Search by engine and number of vectors, against the exact product.
- What the callback adds to an epoch: `in_training.py`, which also runs alone.
- What a large training set takes of memory, disk and time: `large.py`, which also runs alone, for any number of images.
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import in_training
import large
import torch
import torch.nn.functional as F
from large import people
from torch import Tensor

from mi_callback import MemorizationDetector, __version__
from mi_callback.lightning.loggers.tables import markdown_table
from mi_callback.retrieval.engines import RerankedIndex, TorchIndex, build_index, recall_of
from mi_callback.retrieval.whitening import fit_whitening

HERE = Path(__file__).parent
SIDE, SEED, IMAGES = large.SIDE, large.SEED, 128
TRAINED, SAMPLES, HELD_OUT = 50_000, 1_000, 1_000
"""Of the comparison from end to end."""
VECTORS = (10_000, 100_000, 300_000)
K, WIDTH, QUERIES = 64, 128, 256


def main() -> None:
    torch.set_num_threads(1)
    units, steps = unit_costs(), paper_costs()
    (HERE / "RESULTS.md").write_text(page(units, steps, [engine(n) for n in VECTORS]))
    in_training.record()
    large.record()
    print((HERE / "RESULTS.md").read_text())


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Least processor time of several runs."""
    best = float("inf")
    for _ in range(times):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def unit_costs() -> dict[str, float]:
    """Seconds for each image."""
    detector, images, samples = MemorizationDetector(), people(IMAGES), people(IMAGES, SEED + 1)
    train = detector.features(images, ("identity",), views=True)
    reference, generated = detector.fitter.reference(train), detector.features(samples)
    found = {
        "plain": seconds(lambda: detector.features(images, ("identity",), plain=True)),
        "train": seconds(lambda: detector.features(images, ("identity",), views=True)),
        "encode": seconds(lambda: detector.features(samples)),
        "match": seconds(lambda: detector.match(generated, reference, train.thumbnails)),
    }
    return {name: cost / IMAGES for name, cost in found.items()}


def paper_costs(images: int = 8, n: int = 1000, m: int = 4000) -> dict[str, float]:
    """Seconds for each image, and for each pair of a sample and a training image."""
    from transformers import ViTConfig, ViTModel

    network = ViTModel(ViTConfig(image_size=224)).eval()
    batch = torch.rand(images, 3, 224, 224)

    def encode() -> None:
        with torch.no_grad():
            network(batch, output_hidden_states=True)

    layers = [torch.randn(n + m, 768) for _ in range(3)]
    whitened = [fit_whitening(layer[n:], "zca")(layer) for layer in layers]

    def compare() -> Tensor:
        cosines = torch.stack([layer[:n] @ layer[n:].T for layer in whitened])
        return cosines.clamp_min(1e-6).log().mean(dim=0).exp().amax(dim=1)

    return {"encode": seconds(encode) / images, "pair": seconds(compare) / (n * m)}


def engine(n: int) -> list[str]:
    """Exact search of n clustered vectors, and that of the engine for many."""
    generator = torch.Generator().manual_seed(SEED)
    centres = torch.randn(max(100, n // 100), WIDTH, generator=generator)
    member = torch.randint(len(centres), (n + QUERIES,), generator=generator)
    vectors = F.normalize(centres[member] + 0.5 * torch.randn(n + QUERIES, WIDTH, generator=generator), dim=1)
    bank, queries = vectors[:n], vectors[n:]
    exact = TorchIndex(bank)
    flat = seconds(lambda: exact.search(queries, K)) / QUERIES
    began = time.process_time()
    index = build_index(bank, "faiss")
    built = time.process_time() - began
    took = seconds(lambda: index.search(queries, K)) / QUERIES
    approximate = isinstance(index, RerankedIndex)
    recall = recall_of(index, queries, K) if approximate else 1.0
    name = "lists, re-ranked" if approximate else "flat"
    times = [f"{1000 * flat:.2f}", f"{1000 * took:.2f}", f"{flat / took:.1f}"]
    return [f"{n:,}", name, *times, f"{recall:.4f}", f"{built:.0f}"]


def page(units: dict[str, float], steps: dict[str, float], engines: list[list[str]]) -> str:
    plain = units["plain"]
    score = units["encode"] + units["match"]
    ours = TRAINED * units["train"] + (SAMPLES + HELD_OUT) * score
    theirs = (TRAINED + SAMPLES) * steps["encode"] + SAMPLES * TRAINED * steps["pair"]
    halves = 10 * (TRAINED / 2) ** 2 * steps["pair"]
    columns = ["vectors", "FAISS", "exact, ms a query", "FAISS, ms", "times as fast", f"recall of {K}", "built in s"]
    rows = [
        ["`fit`, for each training image", f"{units['train'] / plain:.1f}", "2"],
        ["score, for each sample", f"{score / plain:.1f}", "16"],
        ["of it encoding", f"{units['encode'] / plain:.1f}", ""],
        ["of it search and registration", f"{units['match'] / plain:.1f}", ""],
        ["the paper's encoder, for each image", f"{steps['encode'] / plain:.0f}", ""],
    ]
    return f"""# What looking costs

`make bench`, {time.strftime("%Y-%m-%d")}, mi_callback {__version__}, torch {torch.__version__}, Python
{platform.python_version()}, {platform.machine()}, one thread; seed {SEED}, {IMAGES} made-up images of {SIDE} × {SIDE}
pixels. Processor time; one plain pass takes {1000 * plain:.1f} ms.

{markdown_table(["what", "plain passes", "goal"], rows)}

## From end to end

{SAMPLES:,} samples, {TRAINED:,} training images, {HELD_OUT:,} held-out images, by calculation from the parts above
(without the growth of search with the training set, which is below): ours {ours / 60:.0f} minutes; the paper's recipe
{theirs / 60:.0f} minutes without its null, and {(theirs + halves) / 60:.0f} with it (ten halves of the training set
against each other). Ratios: {theirs / ours:.1f} and {(theirs + halves) / ours:.1f}; the goal is 40.

## Search

{QUERIES} queries of {WIDTH} numbers among clustered vectors, the {K} nearest of each.

{markdown_table(columns, engines)}
"""


if __name__ == "__main__":
    main()
