"""What was measured over all seeds, as the tables and figures ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from common.numbers import auc, threshold
from paper.measure import mixed
from torch import Tensor

METHODS = {
    "bundled": "recipe, bundled encoder",
    "rows": "recipe, row profiles",
    "ours": "this package",
}
SCORES = {"ct": "C_T", "fid": "FID", "kid": "MMD (KID)", "authpct": "AuthPct", "vendi": "Vendi"}
CROP = "crop to 90 %"
PUBLISHED = {
    "clean": 1.0,
    "noise σ .02": 1.0,
    "intensity × .9": 1.0,
    "intensity × 1.1": 1.0,
    "rotation 3°": 0.871,
    "rotation 5°": 0.758,
    "flip, left-right": 0.733,
    "flip, up-down": 0.727,
}
"""AUC in arXiv 2602.13066, by change. Which flip has which is not known here, nor the strength of the noise."""


@dataclass(frozen=True)
class Results:
    """All seeds of one set under one protocol."""

    seeds: Sequence[dict]

    @property
    def methods(self) -> list[str]:
        return [method for method in METHODS if method in self.seeds[0]["methods"]]

    @property
    def changes(self) -> list[str]:
        return [part for part in self.seeds[0]["methods"]["ours"]["mi"] if part not in ("held_out", "novel")]

    @property
    def eight(self) -> list[str]:
        """The paper's changes."""
        return [change for change in self.changes if change != CROP]

    @property
    def resolves(self) -> bool:
        """Whether so few held-out people can flag anything at α = .05."""
        return all(one["methods"]["ours"]["resolves"] for one in self.seeds)

    def mi(self, method: str, part: str) -> list[Tensor]:
        """MI of the images of a part, by seed."""
        return [torch.tensor(one["methods"][method]["mi"][part], dtype=torch.float64) for one in self.seeds]

    def p_values(self, part: str) -> Tensor:
        """Ours, of all seeds."""
        return torch.cat([torch.tensor(one["methods"]["ours"]["p"][part]) for one in self.seeds])

    def auc(self, method: str, change: str) -> list[float]:
        """By seed."""
        pairs = zip(self.mi(method, change), self.mi(method, "novel"), strict=True)
        return [auc(copies, novel) for copies, novel in pairs]

    def limit(self, method: str, rate: float) -> float:
        """The MI that a share `rate` of the held-out slices of all seeds exceeds."""
        return threshold(torch.cat(self.mi(method, "held_out")), rate)

    def beyond(self, method: str, parts: Sequence[str], limit: float | None) -> tuple[int, int]:
        """How many images have an MI beyond a limit, or when None a p-value of at most .05; of how many."""
        if limit is None:
            hits = torch.cat([self.p_values(part) for part in parts]) <= 0.05 + 1e-9
        else:
            hits = torch.cat([mi for part in parts for mi in self.mi(method, part)]) > limit
        return int(hits.sum()), len(hits)

    def oni(self, method: str, change: str, level: int) -> list[float]:
        """Mean ONI, on the paper's scale, of a set of which `level` per cent are copies; by seed."""
        return [float(-some.tanh().mean()) for some in self.sets(method, change, level)]

    def sets(self, method: str, change: str, level: int) -> list[Tensor]:
        """MI of sets of which `level` per cent are copies, for every change as large; by seed."""
        few = min(len(self.mi(method, other)[0]) for other in self.changes)
        parts = zip(self.mi(method, change), self.mi(method, "novel"), strict=True)
        return [mixed({change: copies[:few], "novel": novel}, change, level) for copies, novel in parts]

    def uneven(self, method: str, level: int) -> list[float]:
        """How far MI moves from 0 %: its standard deviation over the eight changes, as a share of its mean; by seed."""
        moved = []
        for change in self.eight:
            pairs = zip(self.sets(method, change, level), self.sets(method, change, 0), strict=True)
            moved.append([float(some.mean() - clean.mean()) for some, clean in pairs])
        return [stdev(seed) / mean(seed) for seed in zip(*moved, strict=True)]

    def spread(self, method: str, level: int) -> list[float]:
        """Standard deviation over the eight changes of the mean ONI of a set; by seed."""
        return [stdev(by_change) for by_change in zip(*(self.oni(method, c, level) for c in self.eight), strict=True)]

    def average(self, method: str, level: int) -> float:
        """Mean ONI over changes and seeds."""
        return mean(mean(self.oni(method, change, level)) for change in self.eight)

    def response(self, measure: str, level: int) -> list[float]:
        """A measure of a set of which `level` per cent are clean copies; by seed."""
        if measure in SCORES:
            return [one["scores"][str(level)][measure] for one in self.seeds]
        pairs = zip(self.mi(measure, "clean"), self.mi(measure, "novel"), strict=True)
        return [float(mixed({"clean": copies, "novel": novel}, "clean", level).mean()) for copies, novel in pairs]

    def steps(self, measure: str, level: int) -> float:
        """How far a measure has moved from 0 %, in standard deviations that it has over seeds at 0 %."""
        first = self.response(measure, 0)
        usual = stdev(first) if len(first) > 1 else float("nan")
        return (mean(self.response(measure, level)) - mean(first)) / usual if usual else float("nan")
