"""Made-up scans of made-up people, so that the examples run anywhere; take your own data set in their place."""

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset


class Scans(Dataset):
    """One scan of each person: structure at three scales, and a label of two kinds."""

    def __init__(self, n: int, seed: int, side: int = 16, dims: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        mode = "bicubic" if dims == 2 else "trilinear"
        parts = [torch.rand(n, 1, *(k,) * dims, generator=generator) for k in (side // 8, side // 4, side // 2)]
        self.images: Tensor = sum(interpolate(part, (side,) * dims, mode=mode) for part in parts) / 3
        self.people = [f"{seed}-{i}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], "label": i % 2, "subject": self.people[i]}


class People(LightningDataModule):
    """Validation images are of other people than training images: they say what chance looks like."""

    def __init__(self, n: int = 24, side: int = 16, dims: int = 2) -> None:
        super().__init__()
        self.train, self.novel = Scans(n, 0, side, dims), Scans(n, 1, side, dims)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.novel, batch_size=8)
