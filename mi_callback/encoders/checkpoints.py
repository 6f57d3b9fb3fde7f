"""Weights from files, safely: nothing in a file is ever executed, and nothing stays random by accident."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mi_callback.errors import EncoderError

_CONTAINERS = ("state_dict", "model", "teacher", "network", "net", "encoder")
"""Keys under which training scripts put the weights beside optimizer and epoch."""


def read_checkpoint(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors by name from safetensors, or from a `torch.save` file that holds nothing but tensors.

    The weights may lie one level deep (`{"state_dict": …, "optimizer": …}`).

    Args:
        sha256: Hexadecimal digest that the file must have.

    Raises:
        EncoderError: If the file is missing, has another digest, holds objects that only a pickle can restore, or no
            tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise EncoderError(f"needed a checkpoint file; there is no {path}. Nothing is downloaded: fetch it first.")
    if sha256 is not None and (found := file_digest(path)) != sha256.lower():
        raise EncoderError(f"needed {path} with the SHA-256 {sha256.lower()}; it has {found}. Fetch it again.")
    content = _read(path)
    if isinstance(content, Mapping):
        inner = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
        weights = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        if weights:
            return weights
    raise EncoderError(
        f"needed tensors by name in {path}, at the top or under one of {list(_CONTAINERS)}; it holds "
        f"{list(content)[:20] if isinstance(content, Mapping) else type(content).__name__}."
    )


def load_weights(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    optional: Collection[str] = (),
    unused: Callable[[str], bool] = lambda key: False,
) -> None:
    """Put weights into a network: all of them, of the right shape, or none.

    Args:
        source: Named in errors.
        optional: Keys of the network that may be absent from `weights`, because what they hold is not used.
        unused: Which keys of `weights` the network is right not to know: a decoder, say.

    Raises:
        EncoderError: With the keys that are missing, of another shape, or unknown. The network is left as it was.
    """
    expected = network.state_dict()
    missing = sorted(expected.keys() - weights.keys() - set(optional))
    shapes = {
        key: f"{tuple(weights[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    }
    unknown = sorted(key for key in weights.keys() - expected.keys() if not unused(key))
    if missing or shapes or unknown:
        faults = {"missing": missing, "of another shape": [f"{k} {v}" for k, v in shapes.items()], "unknown": unknown}
        told = "; ".join(f"{fault} {_first(keys)}" for fault, keys in faults.items() if keys)
        raise EncoderError(f"needed the weights of {type(network).__name__}; in {source} are {told}.")
    network.load_state_dict({**expected, **{k: weights[k] for k in expected if k in weights}}, assign=True)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def strip_prefix(weights: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """What lies below the first of `prefixes` that any key has, without it; all of it where none has."""
    for prefix in prefixes:
        below = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if below:
            return below
    return dict(weights)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise EncoderError(f"needed weights as safetensors; {path} is no such file ({error}).") from error
    from pickle import UnpicklingError

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EncoderError(
            f"needed a file of nothing but tensors; {path} is none ({first}). If it holds pickled objects, they run "
            "code when they are loaded. Where you trust their author, convert it once, on a machine without patient "
            "data: torch.load(path, weights_only=False), then safetensors.torch.save_file(state_dict, "
            "'weights.safetensors'), and pass that file."
        ) from error


def _first(keys: list[str], most: int = 12) -> str:
    return f"{keys[:most]}{f' and {len(keys) - most} more' if len(keys) > most else ''}"
