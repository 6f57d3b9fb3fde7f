"""Windows of training images as they are searched: which of them resembles a window of a query?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mi_callback import regions
from mi_callback.features import Features
from mi_callback.index import Backend, Index, build_index
from mi_callback.whitening import Mode, Whitening, fit_whitening


@dataclass(frozen=True)
class Regions:
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
    def fit(cls, train: Features, whitening: Mode, backend: Backend, device: torch.device | str) -> "Regions | None":
        """Fit on pose 0 of the training features; None where they have no regions."""
        windows, there = _in_pose(train, 0)
        if not windows or len(next(iter(windows.values()))) < 2:
            return None
        whitenings = {layer: fit_whitening(features.to(device), whitening) for layer, features in windows.items()}
        return cls._of(windows, there, whitenings, backend)

    @classmethod
    def of(cls, train: Features, whitenings: dict[str, Whitening], backend: Backend) -> "Regions":
        """Under whitenings that were fitted before."""
        return cls._of(*_in_pose(train, 0), whitenings, backend)

    @classmethod
    def _of(
        cls, windows: dict[str, Tensor], there: Tensor, whitenings: dict[str, Whitening], backend: Backend
    ) -> "Regions":
        return cls(whitenings, build_index(_whitened(windows, whitenings), backend), there.nonzero()[:, 0])

    def search(self, queries: Features, k: int) -> tuple[Tensor, Tensor]:
        """The k training windows most similar to each window of n queries in every pose.

        Returns:
            Training rows and cosines (mean over layers), `(n, poses, windows · k)`, k entries for each window
            after the other; −inf where a window shows no anatomy or there are fewer.
        """
        poses = len(next(iter(queries.regions.values())))
        found = [self._search_pose(queries, pose, k) for pose in range(poses)]
        rows, cosines = (torch.stack([f[part] for f in found], dim=1) for part in range(2))
        return rows, cosines

    def _search_pose(self, queries: Features, pose: int, k: int) -> tuple[Tensor, Tensor]:
        windows, there = _in_pose(queries, pose)
        cosine, entry = self.index.search(_whitened(windows, self.whitenings), k)
        cosines = torch.full((*there.shape, k), -torch.inf)
        rows = torch.zeros((*there.shape, k), dtype=torch.long)
        most = entry.shape[1]  # fewer than k where there are fewer training windows
        cosines[..., :most][there], rows[..., :most][there] = cosine.cpu(), self.rows[entry.cpu()]
        return rows.flatten(1), cosines.flatten(1)


def _in_pose(images: Features, pose: int) -> tuple[dict[str, Tensor], Tensor]:
    """Windows that show anatomy `{layer: (m, d)}`, and which of all `(n, windows)` these are."""
    windows = {layer: features[pose] for layer, features in images.regions.items()}
    if not windows:
        return {}, torch.zeros(len(images), regions.COUNT, dtype=torch.bool)
    there = ~next(iter(windows.values()))[..., 0].isnan()
    return {layer: features[there].float() for layer, features in windows.items()}, there


def _whitened(windows: dict[str, Tensor], whitenings: dict[str, Whitening]) -> Tensor:
    """`{layer: (m, d)}` → unit vectors `(m, d in all)` whose products are mean cosines."""
    device = next(iter(whitenings.values())).mean.device
    parts = [whitenings[layer](features.to(device)) for layer, features in windows.items()]
    return torch.cat(parts, dim=1) / len(parts) ** 0.5
