"""AuthPct: the share of authentic images (Alaa et al. 2022)."""

from jaxtyping import Float
from torch import Tensor

from mi_callback.statistics.set_scores.features import check_features, nearest


def authpct(train: Float[Tensor, "n d"], generated: Float[Tensor, "m d"]) -> float:
    r"""Share of generated images that are authentic: farther from their training image than it is from its own kind.

    With t(x) the training image nearest to the generated image x,

    .. math:: A = \frac{1}{m} \sum_x 1\{ d(x, t(x)) > \min_{t' \neq t(x)} d(t(x), t') \}

    Args:
        train: Features of training images, n ≥ 2.
        generated: Features of generated images.

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

    Example:
        >>> train = torch.tensor([[0.0], [1.0], [5.0]])
        >>> authpct(train, torch.tensor([[0.1], [3.0]]))
        0.5
    """
    train, generated = check_features(1, train=train, generated=generated)
    (train,) = check_features(2, train=train)
    distance, row = nearest(generated, train)
    # Own distances of the *nearest training images*; indexed by the generated image, a known fault, they are others'.
    matched, back = row.unique(return_inverse=True)
    own = nearest(train[matched], train, but=matched).distance
    return float((distance > own[back]).double().mean())
