"""What the memorization-index paper's public code computes with MRI-CORE's weights, for comparison with its numbers.

The faults are kept on purpose:

- The weights, those of a plain ViT at 224 px, run in the image encoder of Segment Anything at 240 px: 8 of 12 blocks
  attend within windows of 14 × 14 tokens only, and 15 × 15 tokens make four windows of which three are mostly padding,
  which takes part in the attention.
- No class token; the position embedding is zero, for the loader files it under a name that the network does not have
  and ignores what the network does not know (LayerScale too, if the file has any).
- A block returns `(n, rows, columns, channels)`, which is averaged over the last two axes as if it were
  `(n, channels, rows, columns)`: one number for each row of patches, 15 in all, with the channels mixed away.

Read in public code. YashDeo-York/Mem-index, `core/` and `scripts/`: how the encoder is called, 240 px as the default of
both scripts, each slice and channel scaled to [0, 1] with no mean or deviation, layers 3, 7 and 11, averaged axes. A
copy of mazurowski-lab/mri_foundation, `models/sam/`: key mapping, position embedding (zero as its issue 5 says, too),
window size, global blocks, no relative positions, norm behind the padding.

Not verified: that the paper's copy of `models/sam/`, which could not be read, equals that one; the paper's numbers.

Input differs where the paper's does: it makes three channels of the contrasts of BraTS by PCA and scales each on its
own, and stretches knees and spines to a square before it scales them; here grey slices are scaled, then fitted with
their proportions kept. Single-contrast slices of 240 × 240 px are the same in both.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mi_callback.encoders.mri_core.vision_transformer import Block, PatchEmbed

SIZE = 240
"""Input side, in pixels."""

GRID = 15
"""Patches along a side."""

WINDOW = 14
"""Side, in tokens, of the windows within which the other blocks attend."""

GLOBAL = (2, 5, 8, 11)
"""Blocks whose tokens all see each other."""


class RowProfiles(nn.Module):
    """The network of the paper's code; `profiles.i` gives the 15 numbers that it makes of the output of block i."""

    def __init__(self, width: int = 768, hidden: int = 3072, depth: int = 12) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(WindowedBlock(width, hidden, GRID if i in GLOBAL else WINDOW) for i in range(depth))
        self.profiles = nn.ModuleList(RowProfile() for _ in range(depth))

    def forward(self, images: Tensor) -> None:
        tokens = self.patch_embed(images)
        for block, profile in zip(self.blocks, self.profiles, strict=True):
            tokens = block(tokens)
            profile(tokens)


class RowProfile(nn.Module):
    """Means over columns and channels: the fault that the paper's features are made of."""

    def forward(self, tokens: Float[Tensor, "n rows columns width"]) -> Float[Tensor, "n rows"]:
        return tokens.mean(dim=(2, 3))


class WindowedBlock(Block):
    """A block on a map of tokens that attends within windows of `window` × `window` of them."""

    def __init__(self, width: int, hidden: int, window: int) -> None:
        super().__init__(width, hidden)
        self.window = window

    def attend(self, tokens: Float[Tensor, "n rows columns width"]) -> Float[Tensor, "n rows columns width"]:
        rows, columns = tokens.shape[1:3]
        side = self.window
        # Padded before the norm, as there: padding is not zero behind it but the norm's bias.
        padded = F.pad(tokens, (0, 0, 0, -columns % side, 0, -rows % side))
        windows = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)  # (n, down, across, side, …)
        attended = super().attend(windows.flatten(0, 2).flatten(1, 2)).view(windows.shape)
        return attended.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :rows, :columns]
