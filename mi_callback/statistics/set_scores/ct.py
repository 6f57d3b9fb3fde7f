"""C_T: data copying, region by region (Meehan et al. 2020)."""

import math
import warnings

import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from scipy.stats import rankdata
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.statistics.set_scores.features import check_features, nearest

CELLS = 3
"""Cells of C_T; few, so that each holds enough images."""

MIN_GENERATED = 20
"""Generated images below which a cell is left out of C_T (τ = 20 / m in the experiments of Meehan et al.)."""


def ct(
    train: Float[Tensor, "n d"],
    held_out: Float[Tensor, "h d"],
    generated: Float[Tensor, "m d"],
    cells: int = CELLS,
    seed: int = 0,
) -> float:
    r"""C_T: are generated images nearer to the training set than held-out ones are, region by region?

    The training set is cut into cells by k-means. In cell π, with g generated and h held-out images,

    .. math:: Z(\pi) = \frac{U - g h / 2}{\sqrt{g h (g + h + 1) / 12}}

    is the z-score of the Mann-Whitney U of distances to the nearest training image of that cell, the number of pairs in
    which the generated image is farther than the held-out one, and

    .. math:: C_T = \frac{\sum_\pi P(\pi) Z(\pi)}{\sum_\pi P(\pi)}

    where P(π) is the share of the held-out images in π, over the cells with enough generated images.

    Args:
        train: Features of training images.
        held_out: Features of real images that were not trained on.
        generated: Features of generated images.
        cells: Number of cells asked for. One that holds fewer than `MIN_GENERATED` generated images (or, where m is
            small, fewer than m / cells), or no training or held-out image, is left out.
        seed: Seed of the k-means.

    Returns:
        A z-score, below about −3 for data copying, above 3 for underfitting. It grows with the number of images in a
        cell, and too fast when many of them are slices of one subject. NaN when no cell holds both enough generated
        and any held-out images: the generator has left the data, there is nothing to compare.

    Raises:
        DataError: For too few rows, values that are not finite, features of different width, or `cells` below 1.

    References:
        Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in generative models",
        AISTATS 2020.

    Example:
        >>> train, held_out = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
        >>> round(ct(train, held_out, train[:30], cells=1), 2)
        -7.7
    """
    if cells < 1:
        raise DataError(f"needed at least 1 cell for ct; {cells} came.")
    train, held_out, generated = check_features(1, train=train, held_out=held_out, generated=generated)
    centres = _centres(train, cells, seed)
    in_train, in_held_out, in_generated = (nearest(x, centres).row for x in (train, held_out, generated))
    enough = min(MIN_GENERATED, len(generated) / len(centres))
    total, weight = 0.0, 0
    for cell in range(len(centres)):
        t, h, g = train[in_train == cell], held_out[in_held_out == cell], generated[in_generated == cell]
        if len(t) and len(h) and len(g) >= enough:
            total += len(h) * _z_score(nearest(g, t).distance, nearest(h, t).distance)
            weight += len(h)
    return total / weight if weight else math.nan


def _centres(train: Tensor, cells: int, seed: int) -> Tensor:
    """Centres of at most `cells` k-means cells; the order of the rows is irrelevant."""
    rows = train.unique(dim=0)  # sorted, and distinct: no two cells begin at one place
    start = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:cells]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty cell, which `ct` leaves out
        # Starting rows are drawn here because the argument that seeds kmeans2 has another name in newer SciPy.
        centres, _ = kmeans2(train.cpu().numpy(), start.cpu().numpy(), iter=20, minit="matrix")
    return torch.from_numpy(centres).to(train)


def _z_score(generated: Tensor, held_out: Tensor) -> float:
    """(U − gh / 2) / √(gh (g + h + 1) / 12), U the number of pairs in which the generated image is farther."""
    g, h = len(generated), len(held_out)
    ranks = rankdata(torch.cat([generated, held_out]).cpu().numpy())
    u = float(ranks[:g].sum()) - g * (g + 1) / 2
    return (u - g * h / 2) / math.sqrt(g * h * (g + h + 1) / 12)
