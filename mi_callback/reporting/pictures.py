"""The two images of a flag in one frame, their difference and their local correlation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mi_callback.images.filters import box_mean
from mi_callback.images.poses import undo
from mi_callback.images.warping import lie_inside, map_places
from mi_callback.registration.config import registration_config
from mi_callback.registration.local_correlation import is_whole
from mi_callback.registration.schedule import Alignment
from mi_callback.types import Thumbnails


@dataclass(frozen=True)
class Pictures:
    """What is shown of one flag, each in the frame of the generated image but `reference`. Patient data.

    Of volumes these are their three middle planes, as `planes` lays them out: the sides are twice as long then.

    Attributes:
        generated: The generated image as it came, in [0, 1].
        reference: The training image as it is, in [0, 1].
        aligned: The training image in the frame of `generated`, in [0, 1]; NaN where it has no pixels.
        difference: `generated` minus `aligned` with the gain and offset that make it smallest; NaN as there.
        lncc_map: Local correlation, at most 1; larger is closer. NaN where a neighbourhood reaches beyond the training
            image, and next to that where there is nothing to compare.
    """

    generated: Float[Tensor, "side side"]
    reference: Float[Tensor, "side side"]
    aligned: Float[Tensor, "side side"]
    difference: Float[Tensor, "side side"]
    lncc_map: Float[Tensor, "side side"]


def pictures_of(
    generated: Thumbnails,
    reference: Thumbnails,
    alignment: Alignment,
    poses: Sequence[str],
    copied_from: Sequence[float],
) -> list[Pictures]:
    """Pictures of k pairs from their alignment.

    Args:
        generated: Thumbnails of the generated images as they came, `(k, side, side)`, or those of volumes.
        reference: Thumbnails of their matches.
        alignment: Of the *posed* thumbnails with the references; every pair compared.
        poses: Pose of each generated image in which it was aligned.
        copied_from: LNCC from which a place of each is a copy's: there the difference is made smallest.
    """
    aligned, lncc_map = _where_compared(alignment)
    return [
        _pictures(image / 255, match / 255, undo(pose, moved), undo(pose, correlation), level)
        for image, match, moved, correlation, pose, level in zip(
            generated.float(), reference.float(), aligned, lncc_map, poses, copied_from, strict=True
        )
    ]


def difference(
    generated: Float[Tensor, "*side"], aligned: Float[Tensor, "*side"], copied: Bool[Tensor, "*side"] | None = None
) -> Float[Tensor, "*side"]:
    """`generated` − (a · `aligned` + b), with the a and b that make it smallest; NaN where `aligned` is.

    Args:
        generated: An image.
        aligned: Another in its frame; NaN where it has no pixels.
        copied: Where it is made smallest, if that is anywhere: of a part of a copy, nothing remains there. Everywhere
            when None.
    """
    there = ~aligned.isnan()
    if not there.any():
        return torch.full_like(generated, torch.nan)
    if copied is not None and (there & copied).any():
        there = there & copied
    ours, theirs = generated[there].double(), aligned[there].double()
    centred = theirs - theirs.mean()
    # An empty training image explains nothing: gain 0, not infinity.
    gain = float((centred * ours).sum() / centred.square().sum().clamp_min(1e-9))
    return generated - (gain * aligned + float(ours.mean() - gain * theirs.mean()))


def planes(image: Float[Tensor, "*side"]) -> Float[Tensor, "height width"]:
    """An image as it is; of a volume `(s, s, s)` the middle planes across depth, height and width, `(2 s, 2 s)`.

    Across the depth upper left, across the height upper right, across the width lower left; NaN lower right. The first
    of its axes that are left runs down.
    """
    if image.ndim == 2:
        return image
    across_depth, across_height, across_width = (image.select(axis, image.shape[axis] // 2) for axis in range(3))
    nothing = torch.full_like(across_depth, torch.nan)
    return torch.cat([torch.cat([across_depth, across_height], 1), torch.cat([across_width, nothing], 1)])


def _pictures(generated: Tensor, reference: Tensor, aligned: Tensor, lncc_map: Tensor, copied_from: float) -> Pictures:
    left = difference(generated, aligned, lncc_map >= copied_from)
    return Pictures(*(planes(image) for image in (generated, reference, aligned, left, lncc_map)))


def _where_compared(alignment: Alignment) -> tuple[Float[Tensor, "k ..."], Float[Tensor, "k ..."]]:
    """Aligned references and their local correlation, NaN where there is nothing of the reference."""
    aligned, lncc_map = alignment.aligned.cpu(), alignment.lncc_map.cpu()
    inside = _inside(alignment.theta.cpu(), aligned.shape[-1])
    dims = aligned.ndim - 1
    config = registration_config(dims).local_correlation
    window = config.window
    compared = is_whole(box_mean(inside.float(), window, dims), dims, config)
    # A smooth warp moves some windows at the edge, of the overlap or the image, out of it: the map is 0 there.
    mean_over = F.avg_pool2d if dims == 2 else F.avg_pool3d
    edge = mean_over(compared[:, None].float(), window, stride=1, padding=window // 2)[:, 0] < 0.99
    compared &= ~(edge & (lncc_map == 0))
    return aligned.masked_fill(~inside, torch.nan), lncc_map.masked_fill(~compared, torch.nan)


def _inside(theta: Float[Tensor, "k dims dims+1"], side: int) -> Bool[Tensor, "k ..."]:
    """Where maps stay inside the reference."""
    return lie_inside(map_places(theta.float(), (side,) * theta.shape[1]))
