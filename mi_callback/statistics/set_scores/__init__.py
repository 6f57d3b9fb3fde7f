"""Set-level scores of the literature, for comparison: one number for all generated images, no image is accused."""

from jaxtyping import Float
from torch import Tensor

from mi_callback.statistics.set_scores.authpct import authpct
from mi_callback.statistics.set_scores.ct import ct
from mi_callback.statistics.set_scores.features import check_features
from mi_callback.statistics.set_scores.fid import fid
from mi_callback.statistics.set_scores.kid import kid
from mi_callback.statistics.set_scores.mifid import memorization_penalty
from mi_callback.statistics.set_scores.vendi import vendi


def set_scores(
    train: Float[Tensor, "n d"], held_out: Float[Tensor, "h d"] | None, generated: Float[Tensor, "m d"], seed: int = 0
) -> dict[str, float]:
    """Compute all set-level scores on the features that the per-image scores use.

    `ct`, `authpct` and `mifid` are made to see copies. `fid` and `kid` are *best* for a generator that replays its
    training set, and `vendi` never looks at it; they stand here because papers report them. Values of `fid`, `kid` and
    `mifid` belong to one encoder and whitening: those of Inception features are on another scale.

    Args:
        train: Features of the training images, n ≥ 2; whitened, layers concatenated.
        held_out: The same of real images that were not trained on, or None.
        generated: The same of generated images, m ≥ 2.
        seed: Seed of the cells of `ct`.

    Returns:
        `ct` (very negative: copies; absent without `held_out`), `authpct` (small: copies), `fid`, `kid`, `mifid`
        (small: like the training set) and `vendi` (small: few distinct images).

    Raises:
        DataError: For too few rows, values that are not finite, or features of different width.

    Example:
        >>> train = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> scores = set_scores(train, None, generated=train[:10])
        >>> {name: round(scores[name], 2) for name in ("authpct", "fid", "kid", "vendi")}
        {'authpct': 0.0, 'fid': 2.47, 'kid': -0.53, 'vendi': 6.4}
        >>> scores["mifid"] > 1000 * scores["fid"]
        True
    """
    train, generated = check_features(train=train, generated=generated)
    frechet = fid(train, generated)
    scores = {} if held_out is None else {"ct": ct(train, held_out, generated, seed=seed)}
    return scores | {
        "authpct": authpct(train, generated),
        "fid": frechet,
        "kid": kid(train, generated),
        "vendi": vendi(generated),
        "mifid": frechet / memorization_penalty(train, generated),
    }
