"""Weights from files, safely: nothing in a file is ever executed, and nothing stays random by accident."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.errors import EncoderError

_CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher", "network", "net", "network_weights", "encoder")
"""Keys under which training scripts put the weights beside optimizer and epoch; the first that is there counts."""

_DEEPEST = 3
"""Levels that are looked at: some trainers write `{"model": {"state_dict": …}}`."""

_LFS = b"version https://git-lfs.github.com/spec/"


def read_checkpoint(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors by name from safetensors, or from a `torch.save` file that holds nothing but tensors.

    The weights may lie below the names that training scripts use (`{"state_dict": …, "optimizer": …}`).

    Args:
        sha256: Hexadecimal digest that the file must have.

    Raises:
        EncoderError: If the file is missing, is the pointer of a git-lfs file, has another digest, is damaged, holds
            objects that only a pickle can restore, or no tensors.
    """
    path = checked_file(path, sha256)
    content = _read(path)
    inner = content
    for _ in range(_DEEPEST):
        if not isinstance(inner, Mapping):
            break
        weights = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        below = next((inner[key] for key in _CONTAINERS if isinstance(inner.get(key), Mapping)), None)
        if below is None and weights:
            return weights
        inner = below
    raise EncoderError(
        f"needed tensors by name in {path}, at the top or under one of {list(_CONTAINERS)}; it holds "
        f"{[str(key) for key in content][:20] if isinstance(content, Mapping) else type(content).__name__}."
    )


def shipped(name: str) -> AbstractContextManager[Path]:
    """A file of weights that comes with the package, as a file, while the context lasts."""
    return as_file(files("mi_callback.encoders") / "weights" / name)


def shipped_or(checkpoint: str | Path | None, name: str) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint, or when None the file of that name which comes with the package: its path and what it holds.

    Raises:
        EncoderError: As `read_checkpoint`.
    """
    with shipped(name) as path:
        path = path if checkpoint is None else Path(checkpoint)
        return path, read_checkpoint(path)


def checked_file(path: str | Path, sha256: str | None = None) -> Path:
    """The path of a file that is there, is no git-lfs pointer, and has the digest.

    Raises:
        EncoderError: If it is not so.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "nothing"
        raise EncoderError(
            f"needed a checkpoint file; there is no {path} ({kind} has that path). Nothing is downloaded: fetch it "
            "first."
        )
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise EncoderError(
                f"needed weights; {path} is the git-lfs pointer that stands for them. Fetch the file: git lfs pull."
            )
    if sha256 is not None and (found := file_digest(path)) != sha256.strip().lower():
        raise EncoderError(f"needed {path} with the SHA-256 {sha256.strip().lower()}; it has {found}. Fetch it again.")
    return path


def load_weights(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    optional: Collection[str] = (),
    unused: Callable[[str], bool] = lambda key: False,
) -> None:
    """Put weights into a network: all of them, of the right shape, or none.

    They take the number types of the network (a half precision file becomes the network's float32) and are copied, so
    that two networks never share them. `num_batches_tracked` of batch normalisation, which counts training steps and
    changes no feature, may be absent.

    Args:
        source: Named in errors.
        optional: Keys of the network that may be absent from `weights`, because what they hold is not used.
        unused: Which keys of `weights` the network is right not to know: a decoder, say.

    Raises:
        EncoderError: With the keys that are missing, of another shape, or unknown. The network is left as it was.
    """
    expected = network.state_dict()
    counters = {key for key in expected if key.rpartition(".")[2] == "num_batches_tracked"}
    missing = sorted(expected.keys() - weights.keys() - set(optional) - counters)
    shapes = {
        key: f"{tuple(weights[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    }
    unknown = sorted(key for key in weights.keys() - expected.keys() if not unused(key))
    if missing or shapes or unknown:
        faults = {"missing": missing, "of another shape": [f"{k} {v}" for k, v in shapes.items()], "unknown": unknown}
        told = "; ".join(f"{fault} {first_of(keys)}" for fault, keys in faults.items() if keys)
        raise EncoderError(f"needed the weights of {type(network).__name__}; in {source} are {told}.")
    taken = {key: weights[key].to(value.dtype, copy=True) for key, value in expected.items() if key in weights}
    absent = {key: torch.zeros_like(expected[key], device="cpu") for key in counters - weights.keys()}
    network.load_state_dict({**expected, **taken, **absent}, assign=True)


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


def initialised(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network that `build` makes, its initial weights drawn from `seed`; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the generators of GPUs as well
        return build()


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError) as error:
            raise EncoderError(
                f"needed weights as safetensors; {path} is no such file, or not all of one ({error}). Fetch it again."
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes make the unpickler do; nothing was executed
        raise EncoderError(
            f"needed a file of nothing but tensors; {path} is none, or not all of one ({first_line(error)}). Fetch it "
            "again. If it is whole and holds pickled objects, they run code when they are loaded. Where you trust "
            "their author, convert it once, on a machine without patient data: torch.load(path, weights_only=False), "
            "then safetensors.torch.save_file(state_dict, 'weights.safetensors'), and pass that file."
        ) from error


def first_of(keys: Sequence[str], most: int = 12) -> str:
    """The first of many keys, and how many more there are."""
    return f"{list(keys[:most])}{f' and {len(keys) - most} more' if len(keys) > most else ''}"


def first_line(error: Exception) -> str:
    """What an error says, without the pages that some add to it; its type where it says nothing."""
    told = str(error).strip()
    return told.splitlines()[0] if told else type(error).__name__


def describe_error(error: Exception) -> str:
    """The type of an error and the first line of what it says."""
    told = first_line(error).rstrip(".")
    return told if told == type(error).__name__ else f"{type(error).__name__}: {told}"
