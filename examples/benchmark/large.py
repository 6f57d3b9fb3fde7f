"""What a large training set costs: memory, disk and time to fit, search, save and load. A section of LARGE.md here.

Features are made up, mixtures of those of a few images: encoding many would take hours and tells nothing new. Each of
two processes, one that fits and one that loads, tells the memory that it took from the system: that of its own, and
mapped files, which the system can take back.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback import MemorizationDetector, __version__
from mi_callback.lightning.loggers.tables import markdown_table
from mi_callback.retrieval.features import Features, GrowingFeatures
from mi_callback.retrieval.search import search

HERE = Path(__file__).parent
PAGE = HERE / "LARGE.md"
HEAD = """# Large training sets

`python examples/benchmark/large.py N`, on one thread. Features of training images are made up, mixtures of those of 64
images; the detector is the default. Of mapped memory the system can take back what it needs; peaks hold both kinds.
Recall is that of held-out images, which are no such mixtures: near them lies nothing, and lists that were tuned on
mixtures find few of their neighbours. Of real slices lists find more, and are slower (see docs/large.md).
"""
TITLE = "## {n:,} training images"
SIDE, SEED, IMAGES, QUERIES, HELD_OUT, EACH = 96, 0, 64, 64, 20, 20
"""Pixels, seed, images of which features are mixed, samples, held-out images, and images of a person."""
ROWS, BLOCK = 20_000, 5_000


@dataclass(frozen=True)
class Stage:
    """What one step cost.

    Attributes:
        name: Of the step.
        seconds: Of the processor.
        own: Gigabytes of memory of its own that the process has after it.
        mapped: Gigabytes of mapped files in memory.
        peak: Gigabytes of memory of both kinds that the process had so far, at most.
    """

    name: str
    seconds: float
    own: float
    mapped: float
    peak: float


def people(n: int, seed: int = SEED) -> Tensor:
    """Made-up images with structure at four scales."""
    generator = torch.Generator().manual_seed(seed)
    parts = (torch.rand(n, 1, side, side, generator=generator) for side in (6, 12, 24, 48))
    return sum(F.interpolate(part, (SIDE, SIDE), mode="bicubic") for part in parts)  # type: ignore[return-value]


def made_up(detector: MemorizationDetector, n: int) -> Features:
    """Features of n training images: each between those of two, and its thumbnail too."""
    few = detector.features(people(IMAGES, SEED), ("identity",), views=True)
    generator, grown = torch.Generator().manual_seed(SEED), GrowingFeatures()
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        one, other = (few.where(torch.randint(IMAGES, (size,), generator=generator)) for _ in range(2))
        share = torch.rand(size, generator=generator) / 2
        grown.append(_between(one, other, share), [f"person {(start + i) // EACH}" for i in range(size)])
    return grown.features()


def _between(one: Features, other: Features, share: Tensor) -> Features:
    def mixed(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
        part = share.view(-1, *[1] * (a.ndim - dim - 1))
        return torch.lerp(a.float(), b.float(), part.expand(a.shape[dim:])).to(a.dtype)

    def each(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: mixed(ours[key], theirs[key]) for key in ours}

    thumbnails = mixed(one.thumbnails, other.thumbnails, dim=0)
    kinds = [each(getattr(one, kind), getattr(other, kind)) for kind in ("layers", "windows", "descriptors")]
    return Features(kinds[0], thumbnails, None, None, windows=kinds[1], descriptors=kinds[2])


def memory() -> tuple[float, float, float]:
    """Gigabytes: of its own, mapped, and the peak of both."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped, peak = (int(status[key].split()[0]) / 2**20 for key in ("RssAnon", "RssFile", "VmHWM"))
    return own, mapped, peak


def stages(detector: MemorizationDetector, n: int, what: str, path: Path) -> Iterator[Stage]:
    """Of a process that fits and saves, or one that loads."""

    def step(name: str, work: Callable[[], object]) -> Stage:
        began = time.process_time()
        work()
        return Stage(name, time.process_time() - began, *memory())

    held_out, queries = (detector.features(people(m, SEED + seed)) for m, seed in ((HELD_OUT, 1), (QUERIES, 2)))
    yield step("an empty detector", lambda: None)
    if what == "fit":
        train = made_up(detector, n)
        yield step("features made up", lambda: None)
        yield step("`fit_features`", lambda: detector.fit_features(train, held_out))
        yield step("`save`", lambda: detector.save(path))
    else:
        yield step("`load`", lambda: detector.load(path))
    yield step(f"search of {QUERIES}", lambda: search(detector.state.reference, queries, detector.aggregation))


def measured(n: int) -> tuple[list[Stage], list[Stage], float | None, int]:
    """Both processes, one after the other, the recall of the search, and the bytes of the state."""
    with tempfile.TemporaryDirectory() as folder:
        path, found, recall = Path(folder) / "state", [], None
        for what in ("fit", "load"):
            command = [sys.executable, "-W", "ignore", str(Path(__file__)), str(n), what, str(path)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            recall, *each = json.loads(told.splitlines()[-1])
            found.append([Stage(*stage) for stage in each])
        return found[0], found[1], recall, path.stat().st_size


def section(n: int, fitted: list[Stage], loaded: list[Stage], recall: float | None, size: int) -> str:
    """The text of LARGE.md on what was measured with n training images."""
    columns = ["process", "step", "processor, s", "own memory, GB", "mapped, GB", "peak, GB"]
    rows = [
        [who, stage.name, *(f"{value:.2f}" for value in (stage.seconds, stage.own, stage.mapped, stage.peak))]
        for who, each in (("first", fitted), ("second", loaded))
        for stage in each
    ]
    how = "exact" if recall is None else f"by lists, and finds {recall:.1%} of what it should"
    return f"""{TITLE.format(n=n)}

Measured {time.strftime("%Y-%m-%d")} with mi_callback {__version__}, torch {torch.__version__}.

{n // EACH:,} people, {HELD_OUT} held-out images, {QUERIES} samples. The state has {size / 2**30:.2f} GB,
{size / n / 1000:.1f} KB an image. Search is {how}.

{markdown_table(columns, rows)}
"""


def record(n: int = ROWS) -> None:
    """Write the section into LARGE.md, in the place of an older one of as many images, in the order of their sizes."""
    text = section(n, *measured(n))
    _, *old = PAGE.read_text().split("\n## ") if PAGE.is_file() else [HEAD]
    sections = {_size(section): f"## {section.rstrip()}" for section in old} | {n: text.rstrip()}
    PAGE.write_text("\n\n".join([HEAD.rstrip(), *(sections[size] for size in sorted(sections))]) + "\n")


def _size(section: str) -> int:
    return int(section.split()[0].replace(",", ""))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if len(sys.argv) > 2:
        looked_at = MemorizationDetector()
        found = [
            list(vars(one).values()) for one in stages(looked_at, int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
        ]
        print(json.dumps([looked_at.state.recall, *found]))
    else:
        record(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
        print(PAGE.read_text())
