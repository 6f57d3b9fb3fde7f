"""One figure: which rule finds which copies."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from paper.measure import CHANGES
from peers.measure import HARDER
from peers.page import RATES, TITLES, Judged


def draw(found: Mapping[str, list[dict]], path: Path) -> None:
    """Share of copies beyond what 1 % of held-out slices reach: a panel a set, a row a change, a column a rule."""
    changes = (*CHANGES, *HARDER)
    canvas = Figure(figsize=(4.4 * len(found) + 2, 6.2), layout="constrained")
    every = canvas.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, seeds) in zip(every, found.items(), strict=True):
        one = Judged(seeds, people=0)  # flags are not drawn
        limits = {rule: one.limit(rule, RATES[0]) for rule in TITLES}
        counts = [[one.beyond(rule, [change], limits[rule]) for rule in TITLES] for change in changes]
        shares = [[hits / of for hits, of in row] for row in counts]
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(TITLES)), list(TITLES.values()), rotation=40, ha="right")
        axes.set_yticks(range(len(changes)), changes)
        axes.tick_params(length=0)
        axes.set_title(f"{name}: copies found at 1 % false flags")
        for y, row in enumerate(shares):
            for x, value in enumerate(row):
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
    canvas.savefig(path, dpi=110)
