"""What the MONAI families share: weights from a checkpoint or from a seed, and the encoder that is made of both."""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mi_callback.encoders.checkpoints import initialised, load_weights, read_checkpoint, strip_prefix
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.pooling import Layer, Layout
from mi_callback.encoders.protocol import Card
from mi_callback.errors import EncoderError

RANDOM = "random"
"""The checkpoint that is none."""

Layers = Mapping[str, Layer | Layout | str]
"""Submodules to tap, with their layouts."""


def load_or_draw_weights(
    build: Callable[[], nn.Module],
    checkpoint: str | Path | None,
    seed: int,
    sha256: str | None,
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    unused: Collection[str],
    immaterial: Callable[[str], bool] = lambda key: False,
) -> nn.Module:
    """The network with the weights of the checkpoint, all of them, or with random ones where they were asked for.

    Args:
        build: Makes the network.
        checkpoint: File, or `RANDOM`.
        seed: Of random weights.
        sha256: Hexadecimal digest that the checkpoint must have.
        renamed: Puts the weights of a checkpoint under the keys of the network.
        unused: Beginnings of keys of the checkpoint that the network need not have.
        immaterial: Keys that change no feature, which either may have and the other not.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network.
    """
    if checkpoint is None:
        raise EncoderError(
            "needed a checkpoint; none was named. Pass checkpoint='weights.safetensors', or checkpoint='random' for a "
            "network that was never trained (a baseline, which finds unchanged copies only)."
        )
    if str(checkpoint) == RANDOM:
        return initialised(build, seed)
    found = renamed(read_checkpoint(checkpoint, sha256))
    network = initialised(build)
    load_weights(
        network,
        found,
        checkpoint,
        optional=[key for key in network.state_dict() if immaterial(key)],
        unused=lambda key: key.startswith(tuple(unused)) or immaterial(key),
    )
    return network


def tap_network(
    network: nn.Module, layers: Layers, checkpoint: str | Path | None, seed: int, name: str, **declared: Any
) -> HookedEncoder:
    """The encoder that a network with its weights is; random ones are nobody's, and its name says that they are."""
    if str(checkpoint) == RANDOM:
        name = f"{name} (random, seed {seed})"
        nobody = Card("none: random weights", "none", "no weights", "none: never trained")
        declared["card"] = declared.get("card") or nobody
    return HookedEncoder(network, layers, name=name, **declared)


def strip_wrappers(weights: Mapping[str, Tensor], prefix: str, *usual: str) -> dict[str, Tensor]:
    """The weights without what data parallel training, and then the model around the network, put before their keys."""
    if not prefix:
        return strip_prefix(strip_prefix(weights, "module."), *usual)
    if not any(key.startswith(prefix) for key in weights):
        raise EncoderError(f"needed keys that begin with {prefix!r}; the checkpoint has {sorted(weights)[:12]}, ….")
    return strip_prefix(weights, prefix)


def check_dims(dims: int) -> None:
    """Refuse anything but images and volumes."""
    if dims not in (2, 3):
        raise EncoderError(f"needed dims 2 (images) or 3 (volumes); {dims!r} came.")


def expand_size(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One side for each dimension, from as many or from one number."""
    sides = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(sides) != dims:
        raise EncoderError(f"needed a size of one number or {dims}; {sides} came.")
    return sides


def check_einops() -> None:
    """Say what to install where einops is missing."""
    try:
        importlib.import_module("einops")
    except ImportError as error:
        raise EncoderError(
            "needed einops, with which MONAI builds its ViT and SwinUNETR; it is not installed. "
            "pip install 'mi-callback[monai]'"
        ) from error
