"""Compiled networks, weights and code in one file: TorchScript (`torch.jit.save`) and `torch.export` programs.

Such a file is a program, and loading and running it is running code; neither format is safe for files of unknown
origin. PyTorch says so of both loaders:

- `torch.export.load` unpickles whatever objects the archive says are pickled (`pickle.loads`, and `torch.load` with
  `weights_only=False`): a file can run any Python when it is loaded.
- `torch.jit.load` restores TorchScript, whose operators reach the file system: a program can create and overwrite
  files when it runs (`torch.from_file`). PyTorch does not vouch for the loader either.

So both builders ask for `trusted=True`, and take the SHA-256 that the file must have. Where its authors publish weights
alone, prefer these.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.encoders.checkpoints import checked_file, file_digest, first_line
from mi_callback.encoders.hooked import HookedEncoder, Outputs
from mi_callback.encoders.pooling import Layer, Layout
from mi_callback.errors import EncoderError

Layers = Mapping[str, Layer | Layout | str]
"""What a network returns, with its layouts."""


def build_torchscript(
    checkpoint: str | Path,
    size: int | Sequence[int],
    layers: Layers | None = None,
    channels: int = 1,
    trusted: bool = False,
    sha256: str | None = None,
    name: str = "torchscript",
    **options: Any,
) -> HookedEncoder:
    """A TorchScript file: what it returns is tapped, since its submodules cannot be.

    It keeps the number type that it was compiled for: images are converted to it.

    Args:
        checkpoint: File of `torch.jit.save`, of a network that takes `(n, channels, *size)`.
        size: Of the input: height and width, or depth, height and width; one number stands for a square.
        layers: What the network returns, `{"outputs.0": "BC", "outputs.1": "BCHW"}`, with the layout of each tensor;
            those left out are not used. One vector for each image when None.
        channels: That it takes; grey images are repeated.
        trusted: Whether you trust the file as you trust code (see the module's docstring).
        sha256: Hexadecimal digest that the file must have.
        name: Shown in reports.
        options: Others of `HookedEncoder`: `intensity` (by default `quantile`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If the file is missing, not trusted, has another digest or is no TorchScript.
    """
    path = _trusted_file(checkpoint, trusted, sha256, "torch.jit.load")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the format, which its user did not choose
            network = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise EncoderError(
            f"needed a file of torch.jit.save; {path} is none, or not all of one ({first_line(error)}). Weights alone "
            "need the builder of their network; .pt2 files need build_encoder('exported')."
        ) from error
    network.eval()
    return _encoder(_Script(network), path, layers, size=size, channels=channels, name=name, **options)


def build_exported(
    checkpoint: str | Path,
    size: int | Sequence[int],
    layers: Layers | None = None,
    channels: int = 1,
    trusted: bool = False,
    sha256: str | None = None,
    name: str = "exported",
    **options: Any,
) -> HookedEncoder:
    """A `torch.export` program (`.pt2`): what it returns is tapped.

    A program that was exported for a fixed number of images is run on as many at a time, the last batch filled up with
    repetitions of its last image; one that was exported for one image runs image by image. It must have been exported
    in eval mode, and keeps the number type and, where its code names one, the device that it was exported for.

    Args:
        checkpoint: File of `torch.export.save`, of a program that takes one tensor `(n, channels, *size)`.
        size: Of the input: height and width, or depth, height and width; one number stands for a square.
        layers: What the program returns, `{"outputs.0": "BC", "outputs.1": "BCHW"}`, with the layout of each tensor;
            those left out are not used. One vector for each image when None.
        channels: That it takes; grey images are repeated.
        trusted: Whether you trust the file as you trust code (see the module's docstring).
        sha256: Hexadecimal digest that the file must have.
        name: Shown in reports.
        options: Others of `HookedEncoder`: `intensity` (by default `quantile`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If the file is missing, not trusted, has another digest, is no program, or one of other inputs.
    """
    path = _trusted_file(checkpoint, trusted, sha256, "torch.export.load")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    try:
        program = torch.export.load(str(path))
        batch = _fixed_batch(program, (channels, *sides))
        module = program.module()
    except EncoderError:
        raise
    except Exception as error:  # the loader raises whatever the content of the archive makes it
        raise EncoderError(
            f"needed a file of torch.export.save; {path} is none that torch {torch.__version__} reads "
            f"({first_line(error)}). TorchScript files need build_encoder('torchscript')."
        ) from error
    return _encoder(_Program(module, batch), path, layers, size=sides, channels=channels, name=name, **options)


class _Compiled(nn.Module):
    """A compiled network that goes where its owner goes, but keeps its number type and its mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "_Compiled":
        """Compiled networks have the mode they were compiled in; exported ones refuse to be asked."""
        self.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "_Compiled":
        # Constants in the code do not follow a conversion of the weights, so none of them is converted: only moved.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


class _Script(_Compiled):
    def forward(self, images: Tensor) -> list[Tensor]:
        # The profiling executor rewrites the code after its first runs: what comes out must not depend on how many.
        with torch.jit.optimized_execution(False):
            return _listed(self.network(images))


class _Program(_Compiled):
    def __init__(self, network: nn.Module, batch: int | None) -> None:
        super().__init__(network)
        self.batch = batch
        for module in network.modules():
            module.training = False  # train() is refused; the flags decide nothing, but should not say otherwise

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.batch is None:
            return _listed(self.network(images))
        parts = []
        for some in images.split(self.batch):
            filled = torch.cat([some, some[-1:].expand(self.batch - len(some), *some.shape[1:])])
            parts.append([tensor[: len(some)] for tensor in _listed(self.network(filled))])
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


class _Described(Outputs):
    """Outputs whose `repr`, and with it the fingerprint, holds the digest of the file: weights and code."""

    def __init__(self, network: nn.Module, count: int, digest: str) -> None:
        super().__init__(network, count)
        self.digest = digest

    def extra_repr(self) -> str:
        return f"sha256={self.digest}"


def _encoder(network: _Compiled, path: Path, layers: Layers | None, **options: Any) -> HookedEncoder:
    layers = layers or {"outputs.0": "BC"}
    numbers = [re.fullmatch(r"outputs\.(\d+)", key) for key in layers]
    if not all(numbers):
        raise EncoderError(
            f"needed layers outputs.0, outputs.1, …: what the network returns. Submodules of compiled networks cannot "
            f"be tapped; {list(layers)} came."
        )
    count = 1 + max(int(number[1]) for number in numbers if number)
    described = _Described(network, count, file_digest(path))
    return HookedEncoder(described, layers, **{"intensity": "quantile", **options})


def _trusted_file(checkpoint: str | Path, trusted: bool, sha256: str | None, loader: str) -> Path:
    path = checked_file(checkpoint, sha256)
    if not trusted:
        raise EncoderError(
            f"needed trusted=True: {path} is a program, and {loader} is not safe for files of unknown origin. Pass it "
            "where you trust the file's authors as you trust code, and their sha256 where they publish it."
        )
    return path


def _fixed_batch(program: Any, expected: tuple[int, ...]) -> int | None:
    """How many images the program takes at a time; None where that is open.

    Args:
        expected: Shape of one image.

    Raises:
        EncoderError: If it takes more than one tensor, or images of another shape.
    """
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(names) != 1 or len(nodes) != 1 or not isinstance(nodes[0].meta.get("val"), Tensor):
        raise EncoderError(f"needed a program of one tensor, the images; it takes {list(names)}.")
    batch, *shape = nodes[0].meta["val"].shape
    fixed = [side if isinstance(side, int) else None for side in shape]
    if len(fixed) != len(expected) or any(a not in (None, b) for a, b in zip(fixed, expected, strict=True)):
        raise EncoderError(
            f"needed a program of images (channels, *size) = {expected}; it takes "
            f"{tuple('any' if side is None else side for side in fixed)}. Pass its channels and size."
        )
    return batch if isinstance(batch, int) else None


def _listed(returned: Any) -> list[Tensor]:
    if isinstance(returned, Mapping):
        return list(returned.values())
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]
