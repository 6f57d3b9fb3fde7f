"""The network of a MONAI bundle that lies in a local folder."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.monai.bundle_config import NetworkConfig, find_network, instantiate, plan_network, run_config
from mi_callback.encoders.monai.weights import Layers, load_or_draw_weights, strip_wrappers, tap_network
from mi_callback.errors import EncoderError


def build_monai_bundle(
    bundle: str | Path,
    layers: Layers,
    size: int | Sequence[int],
    checkpoint: str | Path | None = None,
    config: str | None = None,
    node: str | None = None,
    channels: int = 1,
    prefix: str = "",
    unused: Sequence[str] = (),
    trusted: bool = False,
    sha256: str | None = None,
    seed: int = 0,
    name: str | None = None,
    **options: Any,
) -> HookedEncoder:
    """The network of a MONAI bundle that lies in a local folder.

    The configuration of a bundle is a program: `_target_` names anything that can be imported, and strings that begin
    with `$` are Python that MONAI runs. Unless `trusted`, this builds nothing but modules of `monai.networks` and
    `torch.nn`, from plain values and references to them, runs no expression and downloads nothing; whatever goes
    beyond is refused. With `trusted=True` MONAI parses the configuration and runs what it says: set it for bundles
    whose every file you trust as you trust code. Code that the bundle brings along must be importable.

    Args:
        bundle: Folder with `configs/` and `models/`.
        layers: Submodules to tap, with their layouts.
        size: Of the input.
        checkpoint: Of the network; `models/model.safetensors` or `models/model.pt` when None; or `"random"`.
        config: Name of the file in `configs/`; when None the first that describes a network, `inference` before
            `train`.
        node: Which entry describes the network; `network_def` or `network` when None.
        channels: That the network takes; grey images are repeated.
        prefix: What the keys of the network begin with in the checkpoint; `module.` is recognised.
        unused: Beginnings of keys of the checkpoint that are not of the network.
        trusted: See above.
        sha256: Hexadecimal digest that the checkpoint must have.
        seed: Of random weights.
        name: Shown in reports; that of the folder when None.
        options: Others of `HookedEncoder`: `intensity` (by default `quantile`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If the folder is no bundle, the network needs trust that was not given, or weights are missing or
            wrong.
    """
    folder = Path(bundle).expanduser()
    described = find_network(folder, config, node)
    build = partial(_build, described, folder, trusted)
    checkpoint = checkpoint or _find_weights(folder)
    network = load_or_draw_weights(
        build, checkpoint, seed, sha256, lambda weights: strip_wrappers(weights, prefix), unused
    )
    declared = {"size": size, "channels": channels, "intensity": "quantile"}
    return tap_network(network, layers, checkpoint, seed, name or folder.resolve().name, **{**declared, **options})


def _find_weights(folder: Path) -> Path:
    files = [folder / "models" / file for file in ("model.safetensors", "model.pt")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise EncoderError(
            f"needed the weights of the bundle; there is none of {[str(file) for file in files]}. Pass checkpoint=…"
        )
    return found


def _build(described: NetworkConfig, folder: Path, trusted: bool) -> nn.Module:
    """The network, whose repr, of which the fingerprint is made, knows what its configuration says."""
    if trusted:
        network: Any = run_config(described, folder)
        recipe = described.path.read_bytes()  # a node may refer to anything in it
    else:
        plan = plan_network(described)
        network, recipe = instantiate(plan), repr(plan).encode()
    if not isinstance(network, nn.Module):
        raise EncoderError(
            f"needed a network at {described.node!r} of {described.path}; {type(network).__name__} is there."
        )
    digest = hashlib.blake2b(recipe, digest_size=8).hexdigest()
    network.extra_repr = partial(str, f"config={digest}")  # type: ignore[method-assign]
    return network
