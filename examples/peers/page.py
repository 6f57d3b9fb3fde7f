"""RESULTS.md: what falls short first, then who finds copies, who accuses strangers, and change by change."""

from collections.abc import Mapping, Sequence
from statistics import mean

import torch
from common.numbers import auc, measured_on, over_seeds, share, threshold
from omegaconf import DictConfig
from paper.measure import CHANGES
from peers.measure import HARDER, SETS
from peers.rules import PEERS
from torch import Tensor

from mi_callback.lightning.loggers import markdown_table
from mi_callback.statistics.null import subjects_needed

TITLES = {"ours": "this package", "recipe": "memorization index, recipe"}
TITLES |= {rule: peer.title for rule, peer in PEERS.items()}
KINDS = ("novel", "another contrast", "another site", "smooth")
RATES = (0.01, 0.001)


class Judged:
    """All seeds of one set, whose nulls have slices of so many people."""

    def __init__(self, seeds: Sequence[dict], people: int) -> None:
        self.seeds, self.people = seeds, people

    @property
    def kinds(self) -> list[str]:
        """Of novel slices."""
        return [kind for kind in KINDS if kind in self.seeds[0]["rules"]["ours"]]

    def values(self, rule: str, part: str) -> list[Tensor]:
        """By seed; larger is closer."""
        return [torch.tensor(one["rules"][rule][part], dtype=torch.float64) for one in self.seeds]

    def auc(self, rule: str, change: str) -> list[float]:
        pairs = zip(self.values(rule, change), self.values(rule, "novel"), strict=True)
        return [auc(copies, novel) for copies, novel in pairs]

    def beyond(self, rule: str, parts: Sequence[str], limit: float) -> tuple[int, int]:
        """How many images are beyond a limit, of how many, of all seeds."""
        every = torch.cat([some for part in parts for some in self.values(rule, part)])
        return int((every > limit).sum()), len(every)

    def limit(self, rule: str, rate: float) -> float:
        """What a share `rate` of the held-out slices of all seeds exceeds."""
        return threshold(torch.cat(self.values(rule, "held_out")), rate)

    def flagged(self, kind: str) -> tuple[int, int] | None:
        """By this package, p ≤ .05; None where so few people can flag nothing."""
        if self.people < subjects_needed(0.05):
            return None
        every = [flag for one in self.seeds for flag in one["flagged"][kind]]
        return sum(every), len(every)


def page(config: DictConfig, found: Mapping[str, list[dict]]) -> str:
    """The whole page."""
    sets = {name: Judged(seeds, config.sets[name].people[1]) for name, seeds in found.items()}
    few = {name: len(one.seeds) for name, one in sets.items() if len(one.seeds) < config.peer_seeds}
    lines = [f"{name}: {done} of {config.peer_seeds} seeds measured." for name, done in few.items()]
    lines += [line for name, one in sets.items() for line in shortfalls(name, one)]
    short = "\n".join(f"- {line}" for line in lines)
    seeds = ", ".join(f"{len(one.seeds)} of {config.peer_seeds} {name}" for name, one in sets.items())
    nulls = ", ".join(f"{sum(map(len, one.values('ours', 'held_out')))} {name}" for name, one in sets.items())
    parts = [HEAD.format(measured=measured_on(), seeds=seeds, nulls=nulls), f"## What falls short\n\n{short}\n"]
    for name, one in sets.items():
        parts += [
            f"## {name}\n\n{summary(one)}\n",
            f"### {name}: strangers called copies\n\n{FALSE}\n\n{false_flags(one)}\n",
            f"### {name}: change by change\n\n{CHANGE}\n\n{by_change(one)}\n",
            f"### {name}: scores of whole sets\n\n{WHOLE}\n\n{whole_sets(one)}\n",
        ]
    return "\n".join(parts)


def summary(one: Judged) -> str:
    """Copies found by each rule: the paper's changes, and harder ones."""
    groups = {"as in the paper": list(CHANGES), "harder": list(HARDER)}
    columns = ["rule", *(f"AUC, {group}" for group in groups)]
    columns += [f"found at {100 * rate:g} %, {group}" for rate in RATES for group in groups]
    rows = []
    for rule, title in TITLES.items():
        by_seed = [list(zip(*(one.auc(rule, change) for change in some), strict=True)) for some in groups.values()]
        means = [over_seeds([mean(seed) for seed in seeds]) for seeds in by_seed]
        found = [share(*one.beyond(rule, some, one.limit(rule, rate))) for rate in RATES for some in groups.values()]
        rows.append([title, *means, *found])
    return markdown_table(columns, rows)


def false_flags(one: Judged) -> str:
    """Novel slices of each kind beyond the threshold of sharp held-out ones, and beyond the fixed one of the rule."""
    flags = [one.flagged(kind) for kind in one.kinds]
    rows = [["this package", "p ≤ .05", *("–" if some is None else share(*some) for some in flags)]]
    for rule, title in TITLES.items():
        limits = {"1 % of held-out": one.limit(rule, RATES[0])}
        if rule in PEERS and (fixed := PEERS[rule].fixed) is not None:
            limits[f"fixed, {fixed:g}"] = fixed
        for name, limit in limits.items():
            rows.append([title, name, *(share(*one.beyond(rule, [kind], limit)) for kind in one.kinds)])
    return markdown_table(["rule", "threshold", *one.kinds], rows)


def by_change(one: Judged) -> str:
    rows = []
    for change in (*CHANGES, *HARDER):
        row = [change]
        for rule in TITLES:
            found = [one.beyond(rule, [change], one.limit(rule, rate)) for rate in RATES]
            rates = " / ".join(f"{hits / of:.2f}" for hits, of in found)
            row.append(f"{mean(one.auc(rule, change)):.3f} / {rates}")
        rows.append(row)
    return markdown_table(["change", *TITLES.values()], rows)


def whole_sets(one: Judged) -> str:
    names = {"authpct": "AuthPct", "ct": "C_T", "mifid": "MiFID"}
    rows = [
        [kind, *(over_seeds([seed["sets"][kind][score] for seed in one.seeds]) for score in SETS)]
        for kind in one.seeds[0]["sets"]
    ]
    return markdown_table(["set", *(names[score] for score in SETS)], rows)


def shortfalls(name: str, one: Judged) -> list[str]:
    """Where this package misses copies, accuses strangers, or where a rule of others is better."""
    found = []
    for change in (*CHANGES, *HARDER):
        means = {title: mean(one.auc(rule, change)) for rule, title in TITLES.items()}
        ours = means[TITLES["ours"]]
        better = {title: value for title, value in means.items() if value > ours + 5e-4}
        rates = [one.beyond("ours", [change], one.limit("ours", rate)) for rate in RATES]
        if better or ours < 0.995 or rates[0][0] < 0.95 * rates[0][1]:
            others = "; ".join(f"{title} {value:.3f}" for title, value in better.items())
            told = ", ".join(f"{share(*some)} at {100 * rate:g} %" for rate, some in zip(RATES, rates, strict=True))
            found.append(f"{name}, {change}: AUC {ours:.3f}, found {told}{f'; better: {others}' if others else ''}.")
    for kind in one.kinds:
        flags, raw = one.flagged(kind), one.beyond("ours", [kind], one.limit("ours", RATES[0]))
        if flags is not None and flags[0] > 0.05 * flags[1]:
            found.append(f"{name}, {kind} slices of strangers: {share(*flags)} flagged at α = .05.")
        if raw[0] > 0.01 * raw[1]:
            found.append(f"{name}, {kind} slices of strangers: {share(*raw)} beyond what 1 % of held-out ones reach.")
    if one.people < subjects_needed(0.05):
        found.append(f"{name}: {one.people} held-out people carry no flag at α = .05, which takes 19 of them.")
    if (slices := one.beyond("ours", ["held_out"], 0.0)[1]) < 1 / RATES[-1]:
        found.append(f"{name}: {slices} held-out slices cannot tell .1 % of false flags; that takes a thousand.")
    return found or [f"{name}: nothing, on these slices."]


HEAD = """# What others would say of the same slices

`make bench-peers`, {measured}. Seeds from 0: {seeds}.

Splits, held-out and novel slices and the first nine changes are those of `examples/paper/RESULTS.md`; five harder
ones are added, each by `mi_callback.images.perturbations`. Spines are an anatomy that no encoder here has
seen; of the brains people are shown on whom the encoder was not trained. All rules see the same training slices. They
were rewritten from their papers in `examples/peers/rules.py` and `learned.py`, which name each source and what differs:
**none is its authors' program or has its authors' weights**. The networks of DeepSSIM-like and LCMem-like are small and
learn for half a minute on the 200 training slices of a split; SSCD-like is this package's own copy descriptor alone;
features are those of the bundled encoder; LPIPS and Inception weights are not at hand.

Thresholds are what 1 % and .1 % of the held-out slices of all seeds exceed ({nulls}; where that is less than a slice:
above all of them). Intervals in brackets are Clopper-Pearson over images, too narrow where a person returns in several
seeds; ± is half the interval of Student's t over seeds.

![Copies found, by rule and change](found.png)
"""
FALSE = (
    "Share of novel slices, of people who are in no training set, that are called copies: as they are; through a "
    "random contrast curve that need not rise; of another site and scanner (`open_ms`, T1; beside brains alone); "
    "blurred by 1.5 pixels, as a generator may blur. p ≤ .05 is this package's own rule, with its null at the quality "
    "of the samples; of the others the threshold is made of sharp held-out slices, or is the one used whatever the "
    "data are."
)
CHANGE = "AUC against novel slices / found at 1 % / at .1 %."
WHOLE = (
    "On shrunk-whitened features. AuthPct is small and C_T very negative where a set copies; MiFID, which is small for "
    "a good generator, is made large by copies."
)
