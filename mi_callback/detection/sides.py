"""Are held-out people like training people? If not, the null says nothing of samples that are like training images."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.quality.appearance import appearance
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.growing import blocks_of, taken
from mi_callback.retrieval.whitening import Moments
from mi_callback.statistics.exchangeability import Difference, Exchangeability, compare_people, images_to_compare

LEVEL = 0.01
"""Probability with which two sides of one source are called different, at most."""

COMPONENTS = 12
"""Principal components of the features that are compared beside the appearance of images."""

UNMISTAKABLE = 1.5
"""Difference, in standard deviations among images, that counts where subjects are unknown: images of one person are
then taken for several, and smaller differences may be those of a few people."""


def difference_of_sides(train: Features, held_out: Features, seed: int = 0) -> str | None:
    """In what held-out images differ from training images, in a sentence with the remedy; None where they do not.

    People are compared by how their images look (`images.quality.appearance`) and by the principal components of their
    features, by a permutation test (`statistics.exchangeability`).

    Args:
        train: Of training images.
        held_out: Of held-out images of other people.
        seed: Of the labellings.
    """
    sides = torch.cat([torch.zeros(len(train)), torch.ones(len(held_out))]).bool()
    known = train.subjects is not None and held_out.subjects is not None
    subjects = [f"train {s}" for s in train.ids] + [f"held out {s}" for s in held_out.ids] if known else None
    rows = images_to_compare(sides, subjects, seed)  # of a million images a few thousand
    each = rows[~sides[rows]], rows[sides[rows]] - len(train)
    looks = [appearance(taken(side.thumbnails, own)) for side, own in zip((train, held_out), each, strict=True)]
    seen = {name: torch.cat([look[name] for look in looks]) for name in looks[0]}
    found = compare_people(sides, subjects, seen, _components(train, held_out, each), seed=seed, among=rows)
    named = found.differing(LEVEL)
    if not found.rejects(LEVEL) or not (known or any(abs(one.effect) >= UNMISTAKABLE for one in named)):
        return None
    return _sentence(found, named)


def _components(train: Features, held_out: Features, rows: tuple[Tensor, Tensor]) -> Float[Tensor, "n components"]:
    """Principal components of the plain features of both sides together, which do not know the sides, at these rows."""
    moments = Moments.over(block for side in (train, held_out) for block in _unit(side.layers, slice(None)))
    _, axes = torch.linalg.eigh(moments.scatter / moments.n)
    blocks = (block for side, own in zip((train, held_out), rows, strict=True) for block in _unit(side.layers, own))
    return torch.cat([(block - moments.mean) @ axes[:, -COMPONENTS:] for block in blocks])


def _unit(layers: dict[str, Tensor], rows: Tensor | slice) -> Iterator[Tensor]:
    """Features of pose 0 at these rows, of unit length per layer, layers side by side, float64, a block at a time."""
    own = [features[0, rows] for features in layers.values()]
    for block in blocks_of(len(own[0]), 8 * sum(features.shape[1] for features in own)):
        units = [torch.nn.functional.normalize(features[block].double(), dim=1) for features in own]
        yield torch.cat(units, dim=1)


def _sentence(found: Exchangeability, named: tuple[Difference, ...]) -> str:
    what = ", ".join(dict.fromkeys(one.name for one in named)) or "what the encoder sees"
    return (
        f"held-out and training images differ (p = {found.p_value:.2g}) in {what}: another scanner, site or "
        "preprocessing? Hold out people of the same source, prepared alike"
    )
