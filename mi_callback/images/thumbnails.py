"""Thumbnails of the training images, in which copies are aligned and compared. Patient data."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.resizing import letterbox, resize
from mi_callback.types import Images, Thumbnails

EMPTY, FAINT = 0.02, 0.05
"""Brightness, of a volume in [0, 1], up to which a voxel is empty, and mean of those around it up to which it is: noise
in the air must not hide where the anatomy ends."""

AROUND = 3
"""Side, in voxels, of what is around one."""

THUMBNAIL_SIDE = {2: 96, 3: 48}
"""Side, in pixels, of the thumbnails in which images are aligned and compared, by the number of dimensions."""


def make_thumbnails(images: Images, size: int) -> Thumbnails:
    """Checked images → uint8 `(n, size, size)`, or volumes `(n, size, size, size)`, for registration: quantile-scaled.

    Images keep their proportions. Of volumes what is not empty is stretched to fill the cube: the edges of borders
    would agree between strangers, and the affine map that aligns two volumes knows any stretch. Patient data.
    """
    grey = images.mean(dim=1, keepdim=True)
    if images.ndim == 4:
        fitted = letterbox(normalise_intensity(grey, "quantile"), (size, size))
    else:
        # Scaled without the borders: of what is not empty the same share is white, however wide they are.
        filled = [normalise_intensity(_content(volume), "quantile") for volume in grey.split(1)]
        fitted = torch.cat([resize(volume, (size,) * 3) for volume in filled])
    return fitted[:, 0].mul(255).round().to(torch.uint8)


def _content(volume: Tensor) -> Tensor:
    """The smallest box that holds what is not empty of a volume `(1, 1, d, h, w)`, as bright as it came."""
    scaled = normalise_intensity(volume, "quantile")
    step = [max(1, side - 1) for side in volume.shape[2:]]
    corners = scaled[..., :: step[0], :: step[1], :: step[2]]
    scaled = 1 - scaled if corners.median() > 1 - EMPTY else scaled  # in an inverted copy what is empty is white
    around = F.pad(scaled, (AROUND // 2,) * 6)  # outside of the volume all is empty
    for window in ((AROUND, 1, 1), (1, AROUND, 1), (1, 1, AROUND)):
        around = F.avg_pool3d(around, window, stride=1)
    filled = scaled > EMPTY
    filled = clear if (clear := filled & (around > FAINT)).any() else filled
    for axis in range(2, 5):
        there = filled.any(dim=[other for other in range(5) if other != axis]).nonzero().flatten().tolist()
        if there:
            volume = volume.narrow(axis, there[0], there[-1] + 1 - there[0])
    return volume
