"""Set-level scores of the literature, for comparison: one number for all generated images, no image is accused."""

import math
import warnings

import torch
from scipy.cluster.vq import kmeans2
from scipy.stats import rankdata
from torch import Tensor

from mi_callback.errors import DataError

BLOCK = 2**24
"""Entries of a distance or kernel matrix that are held at a time."""

CELLS = 3
"""Cells of C_T; few, so that each holds enough images."""

MIN_GENERATED = 20
"""Generated images below which a cell is left out of C_T (τ = 20 / m in the experiments of Meehan et al.)."""

COSINE_EPSILON = 0.1
"""Mean cosine distance from which on MiFID sees no memorization (Bai et al., and torchmetrics)."""

COSINE_FLOOR = 1e-6
"""Smallest cosine distance that MiFID divides by: what is smaller is the rounding of float32 features."""


def set_scores(train: Tensor, held_out: Tensor | None, generated: Tensor, seed: int = 0) -> dict[str, float]:
    """All scores of this module on the features that the per-image scores use.

    `ct`, `authpct` and `mifid` are made to see copies. `fid` and `kid` are *best* for a generator that replays its
    training set, and `vendi` never looks at it; they stand here because papers report them. Values of `fid`, `kid` and
    `mifid` belong to one encoder and whitening: those of Inception features are on another scale.

    Args:
        train: Features of the training images `(n, d)`, n ≥ 2; whitened, layers concatenated.
        held_out: The same of real images that were not trained on `(h, d)`, or None.
        generated: The same of generated images `(m, d)`, m ≥ 2.
        seed: Seed of the cells of `ct`.

    Returns:
        `ct` (very negative: copies; absent without `held_out`), `authpct` (small: copies), `fid`, `kid`, `mifid`
        (small: like the training set) and `vendi` (small: few distinct images).

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.
    """
    train, generated = _checked(train=train, generated=generated)
    frechet = fid(train, generated)
    scores = {} if held_out is None else {"ct": ct(train, held_out, generated, seed=seed)}
    return scores | {
        "authpct": authpct(train, generated),
        "fid": frechet,
        "kid": kid(train, generated),
        "vendi": vendi(generated),
        "mifid": frechet / memorization_penalty(train, generated),
    }


def ct(train: Tensor, held_out: Tensor, generated: Tensor, cells: int = CELLS, seed: int = 0) -> float:
    """C_T: are generated images nearer to the training set than held-out ones are, region by region?

    The training set is cut into cells by k-means. In cell π, Z(π) is the z-score of the Mann-Whitney U of distances to
    the nearest training image of that cell, generated against held-out; C_T = Σ P(π) Z(π) / Σ P(π), where P(π) is the
    share of the held-out images in π, over the cells with enough generated images.

    Args:
        train: `(n, d)`.
        held_out: `(h, d)`.
        generated: `(m, d)`.
        cells: Number of cells asked for. One that holds fewer than 20 generated images (or, where m is small, fewer
            than m / cells), or no training or held-out image, is left out.
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
    """
    if cells < 1:
        raise DataError(f"needed at least 1 cell for ct; {cells} came.")
    train, held_out, generated = _checked(1, train=train, held_out=held_out, generated=generated)
    centres = _centres(train, cells, seed)
    in_train, in_held_out, in_generated = (nearest(x, centres)[1] for x in (train, held_out, generated))
    enough = min(MIN_GENERATED, len(generated) / len(centres))
    total, weight = 0.0, 0
    for cell in range(len(centres)):
        t, h, g = train[in_train == cell], held_out[in_held_out == cell], generated[in_generated == cell]
        if len(t) and len(h) and len(g) >= enough:
            total += len(h) * _z_score(nearest(g, t)[0], nearest(h, t)[0])
            weight += len(h)
    return total / weight if weight else math.nan


def authpct(train: Tensor, generated: Tensor) -> float:
    """Share of generated images that are authentic: farther from their training image than it is from its own kind.

    With t the training image nearest to x, x is authentic when d(x, t) > min over the other training images t' of
    d(t, t').

    Args:
        train: `(n, d)`, n ≥ 2.
        generated: `(m, d)`.

    Returns:
        A share in [0, 1], not a percentage in spite of the usual name; about 0 for copies. Novel images do not
        score 1, for by chance a real image is often nearer to t than t's next of kin: a third of uniform points on a
        line is authentic, about a half of random unit vectors, 0.8 of Gaussians in 500 dimensions. Hold it against
        `authpct(train, held_out)`. Neighbouring slices of one subject are close kin, so that in slices an altered copy
        passes as authentic more easily.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    References:
        Alaa, van Breugel, Saveliev and van der Schaar, "How faithful is your synthetic data?", ICML 2022.
    """
    train, generated = _checked(1, train=train, generated=generated)
    (train,) = _checked(2, train=train)
    distance, row = nearest(generated, train)
    # Own distances of the *nearest training images*; indexed by the generated image, a known fault, they are others'.
    matched, back = row.unique(return_inverse=True)
    own, _ = nearest(train[matched], train, but=matched)
    return float((distance > own[back]).double().mean())


def fid(reference: Tensor, generated: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with the moments of two sets of features.

    |μ₁ − μ₂|² + tr C₁ + tr C₂ − 2 tr (C₁C₂)^{1/2}. With C = AᵀA the last trace is the sum of the singular values of
    A₁A₂ᵀ, which is defined for any number of images and needs no matrix root.

    Args:
        reference: `(n, d)`, n ≥ 2; usually the training set.
        generated: `(m, d)`, m ≥ 2.

    Returns:
        A distance ≥ 0; 0 for equal moments. Estimated from few images it is too large: compare equal numbers only.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    References:
        Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
        2017; Dowson and Landau, J. Multivariate Anal. 1982 (the distance).
    """
    # MONAI's get_fid_score and torchmetrics take roots of the d × d product C₁C₂, which is singular for n ≤ d: values
    # off by 1e-7, and for n = 300, d = 2304 half a minute where this takes 20 ms. MONAI's also passes `disp` to
    # scipy's sqrtm, an argument that SciPy 1.18 removes. The tests compare with both.
    reference, generated = _checked(2, reference=reference, generated=generated)
    roots = [(x - x.mean(dim=0)) / math.sqrt(len(x) - 1) for x in (reference, generated)]
    spread = sum(root.square().sum() for root in roots)
    if min(map(len, roots)) > reference.shape[1]:  # R of A = QR has the same AᵀA in d rows
        roots = [torch.linalg.qr(root, mode="r").R for root in roots]
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    apart = (reference.mean(dim=0) - generated.mean(dim=0)).square().sum()
    return max(0.0, float(apart + spread - 2 * shared))


def kid(reference: Tensor, generated: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³, over all pairs.

    Args:
        reference: `(n, d)`, n ≥ 2; usually the training set.
        generated: `(m, d)`, m ≥ 2; m may differ from n.

    Returns:
        About 0, and as often below as above it, for two samples of one distribution; larger is farther.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    References:
        Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018;
        Gretton et al., "A kernel two-sample test", JMLR 2012, eq. 3.
    """
    # torchmetrics' poly_mmd divides every sum by the size of the first set, so it is right for equal sizes only, and
    # its class averages over random subsets; MONAI's compute_mmd has a linear kernel and wants equal sizes too.
    reference, generated = _checked(2, reference=reference, generated=generated)
    n, m = len(reference), len(generated)
    within_reference = (_kernel_sum(reference, reference) - _kernel_diagonal(reference)) / (n * (n - 1))
    within_generated = (_kernel_sum(generated, generated) - _kernel_diagonal(generated)) / (m * (m - 1))
    return within_reference + within_generated - 2 * _kernel_sum(reference, generated) / (n * m)


def vendi(generated: Tensor) -> float:
    """Effective number of distinct images: exp of the entropy of the eigenvalues of K / m, K the matrix of cosines.

    Args:
        generated: `(m, d)`, m ≥ 1. A row of zeros is similar to nothing, as in whitening.

    Returns:
        A number in [1, m]: 1 when all images are the same, m when all are orthogonal. It sees a generator that repeats
        itself, not one that copies its training set.

    Raises:
        DataError: For no row, or values that are not finite.

    References:
        Friedman and Dieng, "The Vendi score", TMLR 2023.

    Example:
        >>> round(vendi(torch.eye(4)[[0, 0, 1, 1, 2, 2]]), 6)
        3.0
    """
    (generated,) = _checked(1, generated=generated)
    unit = _unit(generated)
    m, d = unit.shape
    gram = unit @ unit.T if m <= d else unit.T @ unit  # the same eigenvalues but for zeros
    zeros = int((unit == 0).all(dim=1).sum())
    values = torch.cat([torch.linalg.eigvalsh(gram).clamp_min(0), gram.new_ones(zeros)]) / m
    return float(torch.special.entr(values).sum().exp())


def mifid(train: Tensor, generated: Tensor) -> float:
    """Memorization-informed FID: `fid`, divided by `memorization_penalty`.

    Args:
        train: `(n, d)`, n ≥ 2.
        generated: `(m, d)`, m ≥ 2.

    Returns:
        Equal to `fid` unless the generated images are on average within a cosine distance of 0.1 of training images,
        then larger by up to 10⁶. A generator that replays the *whole* training set still scores 0, because its
        FID is 0.

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    References:
        Bai, Lin, Raffel and Kan, "On training sample memorization: lessons from benchmarking generative modeling with a
        large-scale competition", KDD 2021.
    """
    return fid(train, generated) / memorization_penalty(train, generated)


def memorization_penalty(train: Tensor, generated: Tensor, epsilon: float = COSINE_EPSILON) -> float:
    """What MiFID divides by: the mean cosine distance of a generated image to its nearest training image, or 1.

    Args:
        train: `(n, d)`.
        generated: `(m, d)`.
        epsilon: A mean distance of this or more counts as 1.

    Returns:
        A number in [1e-6, epsilon), or 1 where nothing looks memorized.

    Raises:
        DataError: For no row, values that are not finite, or features of different width.
    """
    # torchmetrics' class takes the mean over the training images of the distance to their nearest generated image: few
    # samples, all of them copies, pass. The competition's own code, and this, take it over the generated images. Both
    # others take |cos|, the same where features are positive; whitened features have signs, and −t is no copy of t.
    train, generated = _checked(1, train=train, generated=generated)
    unit = _unit(train)
    parts = _unit(generated).split(_rows_of_block(len(train)))
    distance = 1 - float(torch.cat([(part @ unit.T).amax(dim=1) for part in parts]).mean())
    return max(distance, COSINE_FLOOR) if distance < epsilon else 1.0


def nearest(queries: Tensor, reference: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each query to its nearest reference row, and that row, both `(n,)`, in bounded memory.

    Args:
        queries: `(n, d)`.
        reference: `(m, d)`.
        but: One row of the reference per query that does not count, `(n,)`: the query itself.
    """
    half = reference.square().sum(dim=1) / 2
    rows = []
    for start in range(0, len(queries), block := _rows_of_block(len(reference))):
        closeness = queries[start : start + block] @ reference.T - half
        if but is not None:
            closeness.scatter_(1, but[start : start + block, None], -math.inf)
        rows.append(closeness.argmax(dim=1))
    row = torch.cat(rows)
    # By subtraction: |q|² + |r|² − 2 q·r has lost its digits where they matter, at the distance of a copy.
    return torch.linalg.vector_norm(queries - reference[row], dim=1), row


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


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Σ (x·y / d + 1)³ over all pairs."""
    return sum(float((part @ y.T / x.shape[1] + 1).pow(3).sum()) for part in x.split(_rows_of_block(len(y))))


def _kernel_diagonal(x: Tensor) -> float:
    return float((x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum())


def _unit(features: Tensor) -> Tensor:
    """Rows of unit length; a row of zeros stays one."""
    return torch.nn.functional.normalize(features, dim=1, eps=1e-12)


def _rows_of_block(columns: int) -> int:
    return max(1, BLOCK // columns)


def _checked(minimum: int = 2, **sets: Tensor) -> list[Tensor]:
    """The sets in float64 on one device, each of the shape `(≥ minimum, d)` with the same d, and finite."""
    first = next(iter(sets.values()))
    for name, features in sets.items():
        if features.ndim != 2:
            raise DataError(
                f"needed {name} features of shape (n, d), one row an image; {tuple(features.shape)} came. Concatenate "
                "the layers along the last dimension."
            )
        if len(features) < minimum:
            raise DataError(
                f"needed at least {minimum} {name} image{'s' * (minimum > 1)} for a set score; {len(features)} came."
            )
        if features.shape[1] != first.shape[1] or not features.shape[1]:
            raise DataError(
                f"needed the same features of all sets; {name} has {features.shape[1]} a row, the first set "
                f"{first.shape[1]}. Use one encoder and one whitening."
            )
        if not features.isfinite().all():
            raise DataError(f"needed finite {name} features; NaN or infinity came.")
    return [features.detach().to(first.device, torch.float64) for features in sets.values()]
