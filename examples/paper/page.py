"""RESULTS.md: what falls short first, then table by table."""

from collections.abc import Mapping

from common.numbers import measured_on
from omegaconf import DictConfig
from paper.results import Results
from paper.tables import aucs, decisions, responses, shortfalls, spreads, universal, variation


def page(config: DictConfig, found: Mapping[tuple[str, bool], list[dict]]) -> str:
    """The whole page."""
    sets = {name: Results(seeds) for (name, coins), seeds in found.items() if not coins}
    coins = {name: Results(seeds) for (name, coins), seeds in found.items() if coins}
    levels = list(config.levels)
    few = {name: len(one.seeds) for name, one in sets.items() if len(one.seeds) < config.seeds}
    lines = [f"{name}: {done} of {config.seeds} seeds measured." for name, done in few.items()] + shortfalls(sets)
    short = "\n".join(f"- {line}" for line in lines) or "- Nothing, on these sets."
    parts = [
        HEAD.format(measured=measured_on(), seeds=seeds_of(config, found), sizes=sizes(sets), side=config.side),
        f"## What falls short\n\n{short}\n",
        f"## Is this image a copy?\n\n{AUC}\n",
        *(f"### {name}\n\n{aucs(one)}\n" for name, one in sets.items()),
        f"## The same by the paper's protocol\n\n{COIN}\n" if coins else "",
        *(f"### {name}, split by slice\n\n{aucs(one)}\n" for name, one in coins.items()),
        f"## Decisions\n\n{DECIDE}\n\n{decisions(sets)}\n",
        f"## One threshold for all sets\n\n{UNIVERSAL}\n\n{universal(sets)}\n",
        f"## Spread across changes\n\n{SPREAD}\n\n{spreads(sets, levels)}\n",
        f"## Variation across sets\n\n{VARIATION}\n\n{variation(sets, levels)}\n" if len(sets) > 1 else "",
        f"## Response to duplication\n\n{RESPONSE}\n",
        *(f"### {name}, by duplication\n\n{responses(one, levels)}\n" for name, one in sets.items()),
    ]
    return "\n".join(part for part in parts if part)


def seeds_of(config: DictConfig, found: Mapping[tuple[str, bool], list[dict]]) -> str:
    """How many were measured, of how many."""
    asked = {False: config.seeds, True: config.coin_seeds}
    each = [(f"{name}{' by slice' * coins}", len(seeds), asked[coins]) for (name, coins), seeds in found.items()]
    return ", ".join(f"{done} of {of} {name}" for name, done, of in each)


def sizes(sets: Mapping[str, Results]) -> str:
    lines = []
    for name, one in sets.items():
        counts = one.seeds[0]["counts"]
        parts = (f"{images} {part.replace('_', '-')} slices of {people}" for part, (images, people) in counts.items())
        lines.append(f"- {name}: {'; '.join(parts)} people")
    return "\n".join(lines)


HEAD = """# The tables of the paper, again

`make bench-paper`, {measured}. Seeds from 0: {seeds}. Slices of {side} × {side} pixels.

Deo et al., *A Calibrated Memorization Index (MI) for Detecting Training Data Leakage in Generative MRI Models*, arXiv
2602.13066, 2026. Published figures are theirs, on other data (BraTS, knees, spines), with MRI-CORE. Of their tables of
spread, variation and response no figures are known here; a dash stands where one is missing. **MRI-CORE's weights are
not at hand here**, so that the recipe (in-sample ZCA, nearest neighbour of each layer, geometric mean, null from ten
halves of the training set) was run with

- *bundled encoder*: the three layers of the CNN that ships with this package, trained to recognise copies; its widest
  layer has 192 features for 200 slices, so that the recipe's null is far too low, as it is for the 768 channels and
  about 250 slices of the paper;
- *row profiles*: the network of the paper's public code, axes mixed up as there (fifteen numbers a layer,
  `encoders/mri_core/paper_code.py`), 64 channels wide and with random weights.

Neither says what MRI-CORE would give. *This package* is `MemorizationDetector()` as it is by default: the same bundled
encoder, copy descriptor, registration, held-out null. Training, held-out and novel slices show different people:

{sizes}

Of the brains (`ixi_t1`) only people on whom the encoder was not trained are used, and it never saw a spine
(`spider_lumbar`). Of `lesions` (`open_ms`, T1, T2 and FLAIR) it knows four of the seven people. ± is half the 95 %
interval of Student's t over seeds; intervals in brackets are Clopper-Pearson over images, too narrow where a person
returns in several seeds.

![AUC by change](auc.png)

![Response to duplication](response.png)
"""
AUC = "AUC of copies against novel slices of other people. Every copy is changed, by the named strength: no coin flips."
COIN = (
    "Slices are split at random, so that novel slices have siblings in the training set; copies are flipped with "
    "probability ½, turned by an angle drawn up to the named one, and darkened or brightened by a factor drawn up to "
    "the named one, as in the paper's public code."
)
DECIDE = (
    "An image is called a copy beyond the MI that 1 % of the held-out slices of all seeds exceed; or, the recipe, "
    "beyond the MI of 1.645 that 5 % exceed if its null is right; or by p ≤ .05, this package's rule. Copies are clean "
    "and changed ones, all nine alike. Every image is judged on its own, so that false positives do not depend on "
    "duplication. The published triples stand as they are known here; whether they are by duplication or by set is not "
    "(with no duplicates accuracy is one minus false positives)."
)
UNIVERSAL = (
    "Mean ONI (−tanh MI; +1 novel, −1 memorized) of novel slices, and the share of them beyond the MI that 1 % of the "
    "held-out slices of the first set exceed. A scale that means the same everywhere has the same ONI and 1 % in all."
)
SPREAD = (
    "Standard deviation, over the paper's eight changes, of the mean ONI of 20 generated slices, by the share of them "
    "that are copies. Smaller is better, but for a measure that calls every set memorized, which has no spread. Last "
    "column: standard deviation over changes of how far the mean MI moves from 0 %, as a share of its mean; 0 is a "
    "measure to which all changes are the same."
)
VARIATION = (
    "Standard deviation over sets of the mean ONI over changes and seeds, and in brackets the ONI of each set, in the "
    "order above."
)
RESPONSE = (
    "Measures of 40 generated slices, by the share that are clean copies. Set scores are computed on shrunk-whitened "
    "features of the bundled encoder, MMD with KID's kernel. Steps: how far the mean has moved from 0 %, in standard "
    "deviations that it has over seeds at 0 %: by how much one set stands out among clean ones. FID and MMD *fall* "
    "with copies: they read as better."
)
