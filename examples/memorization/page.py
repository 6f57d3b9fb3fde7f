"""RESULTS.md: what falls short first, then who copies, whether it was seen, what stopping saves, and who is copied."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from common.numbers import measured_on, share
from memorization.results import COPY, Run, Sample
from omegaconf import DictConfig

from mi_callback.lightning.loggers import markdown_table

AGREEMENT = 0.99
"""Goal: share of decided samples on which detector and truth agree."""


def page(config: DictConfig, found: Mapping[tuple[str, str], dict[str, Any]]) -> str:
    """The whole page."""
    runs = {name: Run(one) for name, one in found.items()}
    parts = [
        HEAD.format(measured=measured_on(), copy=COPY, **config),
        f"## What falls short\n\n{shortfalls(config, runs)}\n",
        f"## Who copies\n\n{COPIED}\n\n{copied(runs)}\n\n![share copied by size](copied.png)\n",
        f"## Does the detector agree with the truth?\n\n{AGREES}\n\n{agreement(runs)}\n\n"
        "![index beside correlation](truth.png)\n",
        f"## What stopping at the alarm saves and costs\n\n{STOPS}\n\n{stopping(runs)}\n",
        f"## Against a wrong training set\n\n{WRONG}\n\n{wrong(runs)}\n",
        f"## Who is copied\n\n{WHOM}\n\n{repeats(runs)}\n\n{sites(runs)}\n",
    ]
    return "\n".join(parts)


def shortfalls(config: DictConfig, runs: Mapping[tuple[str, str], Run]) -> str:
    lines = [f"{family}, {size}: not measured."
             for family in config.families for size in config.slices if (family, size) not in runs]  # fmt: skip
    decided = [sample for run in runs.values() for sample in run.every() if sample.decided]
    agreed = sum(sample.agrees for sample in decided)
    if agreed < AGREEMENT * len(decided):
        lines.append(f"Detector and truth agree on {share(agreed, len(decided))} of decided samples; goal {AGREEMENT}.")
    for (family, size), run in runs.items():
        if run.kept["wrong"]["verdict"] == "memorized":
            lines.append(f"{family}, {size}: *memorized* against a wrong training set.")
        last = len(run.looks) - 1
        if run.looks[last]["verdict"] != "memorized" and run.share(last, is_copy) > 0.1:
            why = "; ".join(run.looks[last]["doubts"])
            lines.append(f"{family}, {size}: copies, and the verdict is {run.looks[last]['verdict']}: {why}.")
    return "\n".join(f"- {line}" for line in lines) or "- Nothing of what follows."


def is_copy(sample: Sample) -> bool:
    return sample.truth == "copy"


def is_flagged(sample: Sample) -> bool:
    return sample.flagged


def copied(runs: Mapping[tuple[str, str], Run]) -> str:
    rows = []
    for (family, size), run in runs.items():
        last = len(run.looks) - 1
        low, estimate, high = run.looks[last]["rate"]
        rows.append([
            family, f"{size} ({run.drawn_from})", f"{run.share(last, is_copy):.2f}",
            f"{run.share(last, lambda s: not s.decided):.2f}", f"{run.share(last, lambda s: s.flagged):.2f}",
            f"{estimate:.2f} ({low:.2f} to {high:.2f})", run.looks[last]["verdict"], f"{run.mi(last):.1f}",
            *(ends(run, name) for name in ("train/loss", "val/loss", "memorization/fid")),
        ])  # fmt: skip
    columns = ["generator", "trained on (rows)", "copies", "undecided", "flagged", "rate", "verdict", "MI median",
               "training loss", "validation loss", "FID"]  # fmt: skip
    return markdown_table(columns, rows)


def ends(run: Run, name: str) -> str:
    """A logged value at the first and at the last look."""
    first, last = run.logged(0, name), run.logged(len(run.looks) - 1, name)
    return "–" if first != first else f"{first:.2f} → {last:.2f}"


def agreement(runs: Mapping[tuple[str, str], Run]) -> str:
    groups = {family: [run for (name, _), run in runs.items() if name == family] for family, _ in runs}
    groups["all"] = list(runs.values())
    rows = []
    for name, some in groups.items():
        samples = [sample for run in some for sample in run.every()]
        marked = [sample for sample in samples if sample.bears is not None]
        rows.append([
            name,
            of(samples, is_copy, is_flagged),
            of(samples, lambda s: s.truth == "novel", is_flagged),
            of(samples, lambda s: not s.decided, is_flagged),
            of(samples, lambda s: s.decided, lambda s: s.agrees),
            of(marked, lambda s: True, is_flagged),
            of(marked, is_flagged, lambda s: s.match == s.bears),
        ])  # fmt: skip
    columns = ["generator", "copies flagged", "novel flagged", "undecided flagged", "agreement", "marked: flagged",
               "of them the bearer found"]  # fmt: skip
    return markdown_table(columns, rows)


def of(samples: Iterable[Sample], which: Callable[[Sample], bool], true: Callable[[Sample], bool]) -> str:
    """Among which of the samples something is true."""
    some = [true(sample) for sample in samples if which(sample)]
    return f"{sum(some)} of {len(some)}, {share(sum(some), len(some))}" if some else "–"


def stopping(runs: Mapping[tuple[str, str], Run]) -> str:
    rows = []
    for (family, size), run in runs.items():
        stops = [
            ("alarm", run.first("memorization/alarm", 0.5)),
            ("rate_lower > .05", run.first("memorization/rate_lower", 0.05)),
        ]
        for name, look in stops:
            if look is None:
                rows.append([family, size, name, "never", "–", "–", "–", "–"])
                continue
            last = len(run.looks) - 1
            rows.append([
                family, size, name, str(look + 1), f"{last - look} of {last + 1}",
                *(f"{run.logged(look, one):.2f}, at the end {run.logged(last, one):.2f}"
                  for one in ("memorization/fid", "val/loss")),
                f"{run.share(look, is_copy):.2f}, at the end {run.share(last, is_copy):.2f}",
            ])  # fmt: skip
    columns = ["generator", "trained on", "stop at", "epoch", "epochs saved", "FID there", "validation loss there",
               "copies there"]  # fmt: skip
    return markdown_table(columns, rows)


def wrong(runs: Mapping[tuple[str, str], Run]) -> str:
    rows = []
    for (family, size), run in runs.items():
        flagged = run.kept["wrong"]["flagged"]
        rows.append([family, size, f"{sum(flagged)} of {len(flagged)}", run.kept["wrong"]["verdict"]])
    every = [flag for run in runs.values() for flag in run.kept["wrong"]["flagged"]]
    rows.append(["all", "", f"{sum(every)} of {len(every)}, {share(sum(every), len(every))}", ""])
    return markdown_table(["generator", "trained on", "flagged at .05", "verdict"], rows)


def repeats(runs: Mapping[tuple[str, str], Run]) -> str:
    """By how often an image is in the data."""
    rows = []
    for (family, _), run in runs.items():
        if run.images != run.drawn_from:
            times = run.kept["images"]["times"]
            for often in sorted(set(times)):
                weight = sum(one for one in times if one == often) / sum(times)
                rows.append([family, f"{often} ×", f"{weight:.2f}", *attributed(run, [t == often for t in times])])
    return markdown_table(["generator", "in the data", "of the rows", "of the flagged samples",
                           "of the copies, by registration"], rows)  # fmt: skip


def sites(runs: Mapping[tuple[str, str], Run]) -> str:
    """By the site where the copied image was made; nothing where all are of one."""
    rows = []
    for (family, size), run in runs.items():
        where = run.kept["images"]["site"]
        if run.images == run.drawn_from and len(set(where)) > 1 and sum(run.looks[-1]["flagged"]) >= 10:
            for site in sorted(set(where)):
                weight = where.count(site) / len(where)
                rows.append([family, size, site, f"{weight:.2f}", *attributed(run, [one == site for one in where])])
    columns = ["generator", "trained on", "site", "of the images", "of the flagged samples",
               "of the copies, by registration"]  # fmt: skip
    return markdown_table(columns, rows) if rows else ""


def attributed(run: Run, group: Sequence[bool]) -> tuple[str, str]:
    """Share of the flagged samples, and of the copies, of the last look whose training image is in a group."""
    samples = list(run.samples(len(run.looks) - 1))
    return (
        of(samples, lambda s: s.flagged, lambda s: group[s.match]),
        of(samples, is_copy, lambda s: group[s.closest]),
    )


HEAD = """# What generators memorize

`make bench-memorization`, seed {seed}, {measured}.

Three families of generators, trained by Lightning with `MemorizationCallback` on T1 brain slices of people that the
encoder does not know ({people[0]}, and {people[1]} held out), for {looks} epochs of equally many steps, whatever the
size of the set; {samples} samples an epoch. In *repeated*, the images of a third of the people are in the data once, of
a third four times, of a third sixteen times.

The truth does not use the detector. A sample is a copy where its structure (between blurs of 1.5 and 4 pixels)
correlates with a training image by {copy[whole]} or more as a whole, or by {copy[upper]} or more in its upper or lower
half, after an affine registration with every one of them; it is novel where none of the three is closer to any than
that of the closest of held-out slices; between, it is undecided. And some training images bear a mark in a corner that
no other image has: who shows the mark has seen that image. Held-out images bear other marks.
"""
COPIED = "At the last epoch. Losses and FID: first epoch → last."
AGREES = (
    "All samples of all epochs. At α = .05 one in twenty novel samples may be flagged. *Bearer*: the training image "
    "whose mark the sample shows, where there is one; who writes an image piece by piece may copy the corner alone."
)
STOPS = 'Epochs are counted from 1; the alarm is what `act="stop"` and EarlyStopping on `memorization/alarm` act upon.'
WRONG = "The samples of the last epoch, against people who were not trained on, with the same held-out people."
WHOM = (
    "Which training images the samples of the last epoch come from. Chance is the share of the rows. Intervals are "
    "Clopper-Pearson's, 95 %."
)
