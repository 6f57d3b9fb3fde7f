"""Figures of the measuring programs of this folder: rates, intervals, what was kept, and where it was measured."""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from mi_callback import __version__
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson


def kept(path: Path, measure: Callable[[], Any]) -> Any:
    """What was measured under a name by this run or one before: an interrupted run goes on."""
    if not path.is_file():
        found = json.dumps(measure())
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(found)
        part.replace(path)
    return json.loads(path.read_text())


def timed(name: str, measure: Callable[[], Any]) -> Callable[[], Any]:
    """The same, which tells how long it took."""

    def measured() -> Any:
        began = time.perf_counter()
        found = measure()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        return found

    return measured


def auc(copies: Tensor, novel: Tensor) -> float:
    """Share of pairs in which the copy is closer to the training set; a tie is half a pair.

    >>> auc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.875
    """
    return float(((copies[:, None] > novel).double() + 0.5 * (copies[:, None] == novel)).mean())


def threshold(null: Tensor, rate: float) -> float:
    """What a share `rate` of the null exceeds; where that is fewer than one image, none."""
    return float(null.sort(descending=True).values[int(rate * len(null))])


def over_seeds(values: Sequence[float], digits: int = 3) -> str:
    """Mean over seeds, and half the 95 % interval of Student's t."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    if len(values) < 2:
        return f"{mean(values):.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def share(found: int, of: int) -> str:
    """A share, with its Clopper-Pearson interval.

    >>> share(1, 2)
    '0.500 (0.013–0.987)'
    """
    low, high = clopper_pearson(found, of)
    return f"{found / of:.3f} ({low:.3f}–{high:.3f})"


def measured_on() -> str:
    """Date, versions and machine."""
    return (
        f"{time.strftime('%Y-%m-%d')}, mi_callback {__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()}, one thread"
    )
