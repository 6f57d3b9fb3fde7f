"""A frame that a shift, a zoom or a turn moves with the image: what was moved is looked up where it belongs.

Encoders see where in the picture something is; at a shift by a tenth of the side their features may know the anatomy no
better than that of a stranger. Images that are both framed by the centre and the spread of their own brightness agree.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.config import FRAME
from mi_callback.images.resizing import resize
from mi_callback.images.warping import Border, warp
from mi_callback.types import Images


def frame_by_moments(images: Images) -> Images:
    """What lies in the frame of each image: centred on its brightness, and as wide as that is spread.

    With brightness w (above the background) at places r, the centre is c = Σ w r / Σ w, and the half side of the frame
    is `FRAME.reach` times √(Σ w |r − c|² / (dims Σ w)), at least one pixel.

    Flips and quarter turns of the image are those of what is framed. What lies outside of the image is as dark as its
    darkest pixel.

    Args:
        images: Images or volumes; their channels share a frame.

    Returns:
        Squares or cubes, with all sides the longest of the images.

    References:
        Hu, "Visual pattern recognition by moment invariants", IRE Trans. Information Theory 1962 (normalisation by
        centre and second moments).
    """
    dims, sides = images.ndim - 2, torch.tensor(images.shape[2:], dtype=torch.float32)
    centre, spread = _moments(images)
    half = (FRAME.reach * spread).clamp_min(1.0)
    # Coordinates are counted from the last axis, in half sides of what is sampled.
    scale = half[:, None] / (sides / 2)
    theta = torch.cat([torch.diag_embed(scale.flip(1)), (2 * centre / sides - 1).flip(1)[:, :, None]], dim=2)
    return warp(images, theta.to(images), size=[int(sides.max())] * dims, border=Border.DARKEST).images


def _moments(images: Images) -> tuple[Float[Tensor, "n dims"], Float[Tensor, " n"]]:
    """Centre of brightness, and its spread about it, in pixels from the corner, on the CPU."""
    weight = _brightness(images)
    centre, variance = [], []
    for axis, side in enumerate(images.shape[2:]):
        place = (torch.arange(FRAME.coarse, dtype=torch.float64) + 0.5) * side / FRAME.coarse
        along = weight.movedim(1 + axis, 1).flatten(2).sum(dim=2)
        centre.append(along @ place)
        variance.append((along * (place - centre[-1][:, None]).square()).sum(dim=1))
    return torch.stack(centre, dim=1).float(), torch.stack(variance).mean(dim=0).sqrt().float()


def _brightness(images: Images) -> Float[Tensor, " n *coarse"]:
    """How bright an image is above its background at each place, coarsely, as shares of the whole."""
    dims = images.ndim - 2
    coarse = resize(images.mean(dim=1, keepdim=True), [FRAME.coarse] * dims)[:, 0].cpu().double()
    flat = coarse.flatten(1)
    background = flat.kthvalue(max(1, round(FRAME.dark * flat.shape[1])), dim=1).values
    weight = (coarse - background.view(-1, *[1] * dims)).clamp_min(0)
    return weight / weight.flatten(1).sum(dim=1).clamp_min(torch.finfo(torch.float64).tiny).view(-1, *[1] * dims)
