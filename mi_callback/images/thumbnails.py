"""Thumbnails of the training images, in which copies are aligned and compared. Patient data."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mi_callback.images.config import THUMBNAIL
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.resizing import letterbox, resize
from mi_callback.types import Images, Thumbnails

THUMBNAIL_SIDE = {2: 96, 3: 48}
"""Side, in pixels, of the thumbnails in which images are aligned and compared, by the number of dimensions."""


def make_thumbnails(images: Images, size: int) -> Thumbnails:
    """Checked images or volumes, quantile-scaled, as bytes, for registration. Patient data.

    Images keep their proportions. Of volumes what is not empty is stretched to fill the cube: the edges of borders
    would agree between strangers, and the affine map that aligns two volumes knows any stretch.

    Args:
        images: What `check_images` returns; channels are averaged.
        size: Side of the thumbnails.

    Returns:
        Bytes, `(n, size, size)` or `(n, size, size, size)`.
    """
    grey = images.mean(dim=1, keepdim=True)
    if images.ndim == 4:
        fitted = letterbox(normalise_intensity(grey, "quantile"), (size, size))
    else:
        # Scaled without the borders: of what is not empty the same share is white, however wide they are.
        filled = [normalise_intensity(_crop_to_anatomy(volume), "quantile") for volume in grey.split(1)]
        fitted = torch.cat([resize(volume, (size,) * 3) for volume in filled])
    return fitted[:, 0].mul(255).round().to(torch.uint8)


def as_images(thumbnails: Thumbnails) -> Images:
    """Thumbnails as images of one channel, in [0, 1]."""
    return thumbnails[:, None].float() / 255


def _crop_to_anatomy(volume: Float[Tensor, "1 1 d h w"]) -> Float[Tensor, "1 1 depth height width"]:
    """The smallest box that holds what is not empty of a volume, as bright as it came."""
    filled = _find_anatomy(normalise_intensity(volume, "quantile"))
    for axis in range(2, 5):
        there = filled.any(dim=[other for other in range(5) if other != axis]).nonzero().flatten().tolist()
        if there:
            volume = volume.narrow(axis, there[0], there[-1] + 1 - there[0])
    return volume


def _find_anatomy(scaled: Float[Tensor, "1 1 d h w"]) -> Bool[Tensor, "1 1 d h w"]:
    """Which voxels of a volume in [0, 1] are not empty."""
    step = [max(1, side - 1) for side in scaled.shape[2:]]
    corners = scaled[..., :: step[0], :: step[1], :: step[2]]
    # In an inverted copy what is empty is white.
    scaled = 1 - scaled if corners.median() > 1 - THUMBNAIL.empty else scaled
    side = THUMBNAIL.around
    around = F.pad(scaled, (side // 2,) * 6)  # outside of the volume all is empty
    for window in ((side, 1, 1), (1, side, 1), (1, 1, side)):
        around = F.avg_pool3d(around, window, stride=1)
    filled = scaled > THUMBNAIL.empty
    clear = filled & (around > THUMBNAIL.faint)
    return clear if clear.any() else filled
