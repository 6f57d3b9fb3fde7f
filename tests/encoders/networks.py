"""Small networks of known structure that tests make encoders of."""

import torch
from torch import nn

from mi_callback.encoders import Layer


class Net(nn.Module):
    """Two convolutions, a normalisation, and a head that counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 2)
        self.reached_the_end = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.norm(self.first(x))))
        x = self.head(x.mean(dim=(2, 3)))
        self.reached_the_end += 1
        return x


class Maps(nn.Module):
    """The same map of 4 channels in every layout; `BNC` with two tokens in front, which are none of the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bchw = nn.Conv2d(1, 4, 2, stride=2)
        self.bhwc, self.bnc, self.bc, self.bcdhw = (nn.Identity() for _ in range(4))

    def forward(self, x: torch.Tensor) -> None:
        x = self.bchw(x)
        self.bhwc(x.permute(0, 2, 3, 1))
        tokens = x.flatten(2).transpose(1, 2)
        self.bnc(torch.cat([torch.full_like(tokens[:, :2], 100.0), tokens], dim=1))
        self.bc(x.mean(dim=(2, 3)))
        self.bcdhw(x[:, :, None])


LAYOUTS = {"bchw": "BCHW", "bhwc": "BHWC", "bnc": Layer("BNC", prefix_tokens=2), "bc": "BC", "bcdhw": "BCDHW"}


class VolumeMaps(nn.Module):
    """The same map of 3 channels of a volume in every layout; `BNC` with one token in front."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bcdhw = nn.Conv3d(1, 3, 2, stride=2)
        self.bdhwc, self.bnc = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> None:
        x = self.bcdhw(x)
        self.bdhwc(x.movedim(1, -1))
        tokens = x.flatten(2).transpose(1, 2)
        self.bnc(torch.cat([torch.full_like(tokens[:, :1], 100.0), tokens], dim=1))


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())
