"""Names that the examples on these pages use beside `train`, `held_out`, `generated`, `detector` and `scores`, which
the first example of the README (and of the quick start) makes. `tests/test_docs.py` runs every example with them.
"""

from pathlib import Path
from typing import Any

import lightning
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SIDE = 32


class People(Dataset[dict[str, Any]]):
    """Random images, each of another person, as a dataset of medical images usually gives them."""

    def __init__(self, first: int, n: int) -> None:
        self.images = torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(first))
        self.subjects = [f"person-{first + i}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.images[i], "subject": self.subjects[i]}


class Generator(lightning.LightningModule):
    """The smallest generator that a Trainer can train: one layer that learns the mean image."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = torch.nn.Linear(4, SIDE * SIDE)

    def sample(self, n: int) -> Tensor:
        return self.decode(torch.randn(n, 4, device=self.device)).view(n, 1, SIDE, SIDE)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return (self.sample(len(batch["image"])) - batch["image"]).square().mean()

    def validation_step(self, batch: Any, _: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(lightning.LightningDataModule):
    """Training and validation images of different people."""

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(People(0, 30), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(People(100, 25), batch_size=8)


def write_folder(root: Path, people: People) -> str:
    """The images as PNG files, one folder per person."""
    for image, subject in zip(people.images, people.subjects, strict=True):
        (root / subject).mkdir(parents=True)
        Image.fromarray((image[0] * 255).byte().numpy()).save(root / subject / "0.png")
    return str(root)


def names(root: Path) -> dict[str, Any]:
    """Everything that an example may use; folders are written below `root`."""
    people, others = People(0, 24), People(100, 22)
    return {
        "model": Generator(),
        "datamodule": Data(),
        "train_subjects": [f"person-{i}" for i in range(30)],
        "held_out_subjects": [f"person-{100 + i}" for i in range(30)],
        "train_folder": write_folder(root / "train", people),
        "held_out_folder": write_folder(root / "held_out", others),
        "generated_folder": write_folder(root / "generated", People(0, 6)),
    }
