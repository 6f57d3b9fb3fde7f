"""Windows of training images as they are searched: which of them resembles a window of a query?"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback.images.windows import WINDOWS, middle_window
from mi_callback.retrieval.engines import Backend, Index, build_index
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.growing import blocks_of, gather
from mi_callback.retrieval.whitening import Whitening, WhiteningKind, fit_whitening


@dataclass(frozen=True)
class WindowIndex:
    """Every window of every training image that shows anatomy, whitened and indexed.

    Attributes:
        whitenings: Per layer, fitted on the windows of training images.
        index: Windows, layers side by side, of unit length.
        rows: Training image of each entry of the index.
    """

    whitenings: dict[str, Whitening]
    index: Index
    rows: Tensor

    @classmethod
    def fit(
        cls, train: Features, whitening: WhiteningKind | str, backend: Backend | str, device: torch.device | str
    ) -> "WindowIndex | None":
        """Fit on pose 0 of the training features; None where they have no windows."""
        if int(_there(train, 0).sum()) < 2:
            return None
        whitenings = {
            layer: fit_whitening((block[layer] for block in _blocks(train, 0)), whitening, device=device)
            for layer in train.windows
        }
        return cls.of(train, whitenings, backend)

    @classmethod
    def of(
        cls, train: Features, whitenings: dict[str, Whitening], backend: Backend | str, kept: Tensor | None = None
    ) -> "WindowIndex":
        """Under whitenings that were fitted before; with what the index kept."""
        there = _there(train, 0)
        bank = gather((_whitened(block, whitenings) for block in _blocks(train, 0)), int(there.sum()))
        return cls(whitenings, build_index(bank, backend, kept), there.nonzero()[:, 0].contiguous())

    def search(self, queries: Features, k: int) -> tuple[Tensor, Tensor]:
        """The k training windows most similar to each window of n queries in every pose.

        Returns:
            Training rows and cosines (mean over layers), `(n, poses, windows, k)`; −inf where a window shows no anatomy
            or there are fewer.
        """
        poses = len(next(iter(queries.windows.values())))
        found = [self._search_pose(queries, pose, k) for pose in range(poses)]
        rows, cosines = (torch.stack([f[part] for f in found], dim=1) for part in range(2))
        return rows, cosines

    def whitened(self, images: Features, pose: int) -> Tensor:
        """Windows of images that show anatomy, as they are searched, `(m, d)`."""
        return gather(_whitened(block, self.whitenings) for block in _blocks(images, pose))

    @staticmethod
    def locate(rows: Tensor, cosines: Tensor, chosen: Tensor, poses: Tensor) -> Tensor:
        """In which window of a query is the copy of a training image? In the middle of those that found it.

        Windows overlap, and one that shows a quarter of the copy may be more similar by chance than the one that shows
        it all. Each counts by how much more similar the image is to it than the last one that was found, squared: what
        was found by chance must not move the middle.

        Args:
            rows, cosines: What `search` found, `(n, poses, windows, k)`.
            chosen, poses: Training rows `(n, c)` and the pose of the query in which each was found; −1 for none.

        Returns:
            Windows `(n, c)`; −1 for none.
        """
        each = torch.arange(len(rows))[:, None]
        ours, alike = rows[each, poses] == chosen[..., None, None], cosines[each, poses]
        ours = ours & alike.isfinite()
        last = alike.masked_fill(alike.isinf(), torch.inf).amin(dim=3, keepdim=True)
        excess = torch.where(ours, alike - last + 1e-3, 0.0).amax(dim=3)  # where it is the only one, it counts too
        return middle_window(excess.square()).masked_fill(chosen < 0, -1)

    def _search_pose(self, queries: Features, pose: int, k: int) -> tuple[Tensor, Tensor]:
        there = _there(queries, pose)
        cosine, entry = self.index.search(self.whitened(queries, pose), k)
        cosines = torch.full((*there.shape, k), -torch.inf)
        rows = torch.zeros((*there.shape, k), dtype=torch.long)
        most = entry.shape[1]  # fewer than k where there are fewer training windows
        cosines[..., :most][there], rows[..., :most][there] = cosine.cpu(), self.rows[entry.cpu()]
        return rows, cosines


def _there(images: Features, pose: int) -> Tensor:
    """Which of all `(n, windows)` show anatomy."""
    if not images.windows:
        return torch.zeros(len(images), WINDOWS, dtype=torch.bool)
    return ~next(iter(images.windows.values()))[pose, ..., 0].isnan()


def _blocks(images: Features, pose: int) -> Iterator[dict[str, Tensor]]:
    """Windows that show anatomy, `{layer: (m, d)}`, of a block of images at a time."""
    there = _there(images, pose)
    widest = max(8 * features[0, 0].numel() for features in images.windows.values())
    for rows in blocks_of(len(images), widest):
        yield {layer: features[pose, rows][there[rows]].float() for layer, features in images.windows.items()}


def _whitened(windows: dict[str, Tensor], whitenings: dict[str, Whitening]) -> Tensor:
    """`{layer: (m, d)}` → unit vectors `(m, d in all)` whose products are mean cosines."""
    device = next(iter(whitenings.values())).mean.device
    parts = [whitenings[layer](features.to(device)) for layer, features in windows.items()]
    return torch.cat(parts, dim=1) / len(parts) ** 0.5
