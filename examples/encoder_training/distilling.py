"""A narrower copy descriptor that learns from a wider one: which images are how much alike."""

import argparse

import torch
import torch.nn.functional as F
from encoder_training.descriptor import DescriptorTraining, info_nce, versions
from encoder_training.learning import TEMPERATURE, koleo
from encoder_training.slices import Slices
from safetensors.torch import load_file
from torch import Tensor

from mi_callback.encoders.bundled import widths_of
from mi_callback.encoders.descriptor import SCALES, WIDTHS, DescriptorNet, copy_descriptor

CLOSE_TO_THE_TEACHER = 10.0
"""Weight of the distance of descriptors from the teacher's, beside InfoNCE and the ranking."""

NORM = ("weight", "bias", "running_mean", "running_var")
"""Parts of a norm, by channel; that of the pooled stages has the last two alone."""


class Distillation(DescriptorTraining):
    """The training of a descriptor that begins with the strongest channels of its teacher.

    Beside what any descriptor learns, its descriptors come close to the teacher's (cosine), and so do the shares that
    softmax gives to all originals of a batch for each copy.

    References:
        Li et al., "Pruning filters for efficient ConvNets", ICLR 2017; Hinton, Vinyals and Dean, "Distilling the
        knowledge in a neural network", NIPS deep learning workshop 2014.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.teacher = copy_descriptor(options.teacher)
        super().__init__(options)

    def build(self) -> DescriptorNet:
        return pruned(load_file(self.options.teacher), tuple(self.options.widths))

    def losses(self, folders: list[Slices]) -> tuple[Tensor, Tensor]:
        both = versions(folders, self.generator)
        found, wanted = self.model(both), self.teacher(both)
        (copies, originals), (their_copies, their_originals) = found.chunk(2), wanted.chunk(2)
        shares, their_shares = (
            F.log_softmax(one @ other.T / TEMPERATURE, dim=1)
            for one, other in ((copies, originals), (their_copies, their_originals))
        )
        ranking = F.kl_div(shares, their_shares, log_target=True, reduction="batchmean")
        distance = 1 - F.cosine_similarity(found, wanted, dim=1).mean()
        return info_nce(copies, originals) + ranking + CLOSE_TO_THE_TEACHER * distance, koleo(originals)


def pruned(weights: dict[str, Tensor], widths: tuple[int, ...]) -> DescriptorNet:
    """A descriptor of the strongest channels of every stage of another one."""
    before = widths_of(weights, WIDTHS)
    kept = {key: value for key, value in weights.items() if value.ndim == 0}
    ins, columns = torch.arange(len(SCALES)), []
    for stage, width in enumerate(widths):
        name = f"stages.{stage}."
        outs = _strongest(_strength(weights, stage, before), width)
        middle = _strongest(weights[name + "norm1.weight"].abs() * _used(weights[name + "conv2.weight"]), width)
        for layer, rows, of in (("reduce", outs, ins), ("conv1", middle, outs), ("conv2", outs, middle)):
            kept[f"{name}{layer}.weight"] = weights[f"{name}{layer}.weight"][rows][:, of]
        for norm, rows in (("norm", outs), ("norm1", middle), ("norm2", outs)):
            kept |= {key: weights[key][rows] for key in (f"{name}{norm}.{part}" for part in NORM)}
        if stage:  # the last three are pooled
            columns.append(sum(before[1:stage]) + outs)
        ins = outs
    pooled = torch.cat(columns)
    kept |= {"head.weight": weights["head.weight"][:, pooled], "head.bias": weights["head.bias"]}
    kept |= {f"norm.{part}": weights[f"norm.{part}"][pooled] for part in NORM[2:]}
    network = DescriptorNet(widths)
    network.load_state_dict(kept)
    return network


def _strength(weights: dict[str, Tensor], stage: int, widths: tuple[int, ...]) -> Tensor:
    """How much of each channel of a stage comes out, times what the next stage and the descriptor make of it."""
    scale = sum(weights[f"stages.{stage}.{norm}.weight"].abs() for norm in ("norm", "norm2"))
    strength = torch.zeros_like(scale)
    if stage + 1 < len(widths):
        passed_on = scale * _used(weights[f"stages.{stage + 1}.reduce.weight"])
        strength += passed_on / passed_on.mean()
    if stage:
        own = slice(sum(widths[1:stage]), sum(widths[1 : stage + 1]))
        described = scale * weights["head.weight"][:, own].norm(dim=0) / weights["norm.running_var"][own].sqrt()
        strength += described / described.mean()
    return strength


def _used(convolution: Tensor) -> Tensor:
    """Norm of the weights of each channel that comes in."""
    return convolution.square().sum(dim=(0, 2, 3)).sqrt()


def _strongest(strength: Tensor, most: int) -> Tensor:
    return strength.topk(most).indices.sort().values
