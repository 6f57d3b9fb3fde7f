"""The plain vision transformer (Dosovitskiy et al., ICLR 2021), its parameters named as DINO and DINOv2 name them.

Written out because it must be taken apart: blocks are tapped one by one, hold nothing that a checkpoint of that layout
lacks, and can attend otherwise (`paper_code`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 16
"""Side of a patch, in pixels."""
HEAD = 64
"""Channels of an attention head: 64 in ViT-T, S, B and L."""
EPSILON = 1e-6
"""Of the layer norms; torch's default is 1e-5."""


class VisionTransformer(nn.Module):
    """Class token, then patch tokens row by row, with a learned position embedding for all of them.

    Args:
        width: Channels of a token, a multiple of 64.
        hidden: Channels within the MLPs.
        depth: Number of blocks.
        grid: Patches along a side; images have `16 * grid` pixels a side.
    """

    def __init__(self, width: int = 768, hidden: int = 3072, depth: int = 12, grid: int = 14) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n tokens width"]:
        """Tokens of images, the class token first, then patches row by row."""
        patches = self.patch_embed(images).flatten(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class PatchEmbed(nn.Module):
    """One token for each patch of 16 × 16 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n rows columns width"]:
        return self.proj(images).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention, then an MLP, each normalised before and added to what it was given."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = MLP(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attend(tokens)
        return tokens + self.mlp(self.norm2(tokens))

    def attend(self, tokens: Tensor) -> Tensor:
        return self.attn(self.norm1(tokens))


class Attention(nn.Module):
    """Every token looks at every other, in heads of 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "n tokens width"]) -> Float[Tensor, "n tokens width"]:
        query, key, value = self.qkv(tokens).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The same two linear maps for every token, a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))
