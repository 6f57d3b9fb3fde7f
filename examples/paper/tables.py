"""The tables of RESULTS.md."""

import math
from collections.abc import Mapping
from statistics import mean, stdev

from common.numbers import over_seeds, share
from paper.results import METHODS, PUBLISHED, SCORES, Results

from mi_callback.lightning.loggers import markdown_table

RATE = 0.01
"""Share of held-out slices beyond the thresholds."""
NORMAL = 1.645
"""MI that 5 % exceed where a null is normal."""
GOAL = 0.995
"""AUC, and accuracy, below which something falls short."""
DUPLICATED = (0, 10, 30)


def aucs(one: Results) -> str:
    """AUC of copies against novel slices, by change."""
    rows = []
    for change in one.changes:
        published = PUBLISHED.get(change)
        rows.append([
            change, "–" if published is None else f"{published:.3f}",
            *(over_seeds(one.auc(method, change)) for method in one.methods),
        ])  # fmt: skip
    means = [[mean(seed) for seed in zip(*(one.auc(m, c) for c in one.eight), strict=True)] for m in one.methods]
    rows.append(["mean of the eight", f"{mean(PUBLISHED.values()):.3f}", *map(over_seeds, means)])
    return markdown_table(["change", "published", *(METHODS[method] for method in one.methods)], rows)


def decisions(sets: Mapping[str, Results]) -> str:
    """False positives, copies found, and accuracy by duplication."""
    columns = ["set", "who decides", "false positives", "clean copies found", "changed copies found"]
    columns += [f"accuracy at {level} %" for level in DUPLICATED]
    rows = [["all", "published", "1, 1.2, .8 %", "–", "–", "99.8 %", "99.5 %", "99.9 %"]]
    for name, one in sets.items():
        rules = [(m, f"{METHODS[m]}, 1 % of held-out", one.limit(m, RATE)) for m in one.methods]
        rules += [(m, f"{METHODS[m]}, α = .05 of its own null", NORMAL) for m in one.methods if m != "ours"]
        rules += [("ours", "this package, p ≤ .05", None)] if one.resolves else []
        for method, title, limit in rules:
            wrong, clean, changed = (one.beyond(method, p, limit) for p in (["novel"], ["clean"], one.changes[1:]))
            all_copies = one.beyond(method, one.changes, limit)
            rows.append([
                name, title, share(*wrong), share(*clean), share(*changed),
                *(f"{100 * accuracy(wrong, all_copies, level):.1f} %" for level in DUPLICATED),
            ])  # fmt: skip
    return markdown_table(columns, rows)


def accuracy(wrong: tuple[int, int], found: tuple[int, int], level: int) -> float:
    """Share that is judged rightly where `level` per cent are copies."""
    return (1 - wrong[0] / wrong[1]) * (1 - level / 100) + found[0] / found[1] * level / 100


def universal(sets: Mapping[str, Results]) -> str:
    """ONI of novel slices in each set, and what the threshold of the first set flags in the others."""
    names, first = list(sets), next(iter(sets.values()))
    rows = []
    for method in first.methods:
        oni = {name: one.oni(method, "clean", 0) for name, one in sets.items()}
        apart = stdev([mean(values) for values in oni.values()]) if len(names) > 1 else float("nan")
        limit = first.limit(method, RATE)
        flagged = [share(*one.beyond(method, ["novel"], limit)) for one in sets.values()]
        rows.append([METHODS[method], *map(over_seeds, oni.values()), f"{apart:.3f}", *flagged])
    columns = ["method", *(f"ONI, {name}" for name in names), "SD over sets"]
    return markdown_table([*columns, *(f"flagged, {name}" for name in names)], rows)


def spreads(sets: Mapping[str, Results], levels: list[int]) -> str:
    """How much the ONI of a set, and how far its MI moves, depend on how its copies were changed."""
    rows = []
    for name, one in sets.items():
        for method in one.methods:
            spread = [over_seeds(one.spread(method, level)) for level in levels]
            rows.append([name, METHODS[method], *spread, over_seeds(one.uneven(method, levels[-1]), 2)])
    columns = [*(f"{level} %" for level in levels), f"MI's response at {levels[-1]} %"]
    return markdown_table(["set", "method", *columns], rows)


def variation(sets: Mapping[str, Results], levels: list[int]) -> str:
    """How much the ONI of a set depends on the anatomy."""
    rows = []
    for method in next(iter(sets.values())).methods:
        means = [[one.average(method, level) for one in sets.values()] for level in levels]
        each = [f"{stdev(some):.3f} ({', '.join(f'{oni:.2f}' for oni in some)})" for some in means]
        rows.append([METHODS[method], *each])
    return markdown_table(["method", *(f"{level} %" for level in levels)], rows)


def responses(one: Results, levels: list[int]) -> str:
    """What every measure says of a set, by duplication."""
    named = {method: f"MI, {METHODS[method]}" for method in one.methods} | SCORES
    rows = []
    for measure, title in named.items():
        means = [over_seeds(one.response(measure, level), 5 if measure == "kid" else 3) for level in levels]
        steps = " / ".join(signed(one.steps(measure, level)) for level in (levels[1], levels[-1]))
        rows.append([title, *means, steps])
    columns = [f"{level} %" for level in levels]
    return markdown_table(["measure", *columns, f"steps at {levels[1]} / {levels[-1]} %"], rows)


def signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"


def shortfalls(sets: Mapping[str, Results]) -> list[str]:
    """Where this package is worse than what was published, than the recipe here, or than it should be."""
    checks = (short_aucs, short_decisions, short_responses)
    return [line for name, one in sets.items() for check in checks for line in check(name, one)]


def short_aucs(name: str, one: Results) -> list[str]:
    found = []
    for change in one.changes:
        ours = mean(one.auc("ours", change))
        others = {METHODS[method]: mean(one.auc(method, change)) for method in one.methods if method != "ours"}
        others |= {"published": PUBLISHED[change]} if change in PUBLISHED else {}
        better = [f"{title} {value:.3f}" for title, value in others.items() if value > ours + 5e-4]
        if better or ours < GOAL:
            found.append(f"{name}, {change}: AUC {over_seeds(one.auc('ours', change))}; {', '.join(better) or 'best'}.")
    return found


def short_decisions(name: str, one: Results) -> list[str]:
    found, limit = [], one.limit("ours", RATE)
    wrong, copies = one.beyond("ours", ["novel"], limit), one.beyond("ours", one.changes, limit)
    if wrong[0] / wrong[1] > RATE:
        found.append(f"{name}: false positives {share(*wrong)} beyond what 1 % of held-out slices reach.")
    if (right := accuracy(wrong, copies, 30)) < GOAL:
        found.append(f"{name}: accuracy at 30 % duplication {100 * right:.1f} %; published 99.9 %.")
    if not one.resolves:
        people = one.seeds[0]["counts"]["held_out"][1]
        found.append(f"{name}: {people} held-out people carry no flag at α = .05, which takes 19 of them.")
    return found


def short_responses(name: str, one: Results, level: int = 5) -> list[str]:
    """Which measures of a set move by more of their own standard deviations."""
    named = {method: f"MI, {METHODS[method]}" for method in one.methods} | SCORES
    moved = {title: abs(one.steps(measure, level)) for measure, title in named.items()}
    ours = moved.pop(f"MI, {METHODS['ours']}")
    better = ", ".join(f"{title} {value:.1f}" for title, value in moved.items() if value > ours)
    if not better:
        return []
    return [
        f"{name}: with {level} % copies the mean MI of a set moves by {ours:.1f} of its standard deviations; {better}."
    ]
