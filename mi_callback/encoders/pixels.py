"""Pixels as features: the baseline that needs no training and finds unchanged copies only."""

from jaxtyping import Float
from torch import Tensor, nn

from mi_callback.encoders.hooked import HookedEncoder


class Pyramid(nn.Module):
    """Average-pooled copies of the image, flattened."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten()) for side in sides)

    def forward(self, images: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n d"]]:
        """The thumbnails of images as vectors, in the order of their sides."""
        return [level(images) for level in self.levels]


def build_pixels(sides: tuple[int, ...] = (8, 16), size: int = 64) -> HookedEncoder:
    """Thumbnails of the given sides as layers; a baseline to compare encoders with.

    Args:
        sides: Of the thumbnails, in pixels: means of blocks.
        size: Side of the input.
    """
    layers = {f"levels.{i}": "BC" for i in range(len(sides))}
    return HookedEncoder(Pyramid(tuple(sides)), layers, size=size, intensity="quantile", name="pixels")  # type: ignore[arg-type]
