"""The network of a MONAI bundle that lies in a local folder."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.monai.bundle_config import find_network, instantiate, plan_network, run_config
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
    path, content, node = find_network(folder, config, node)
    if checkpoint is None:
        files = [folder / "models" / file for file in ("model.safetensors", "model.pt")]
        checkpoint = next((file for file in files if file.is_file()), None)
        if checkpoint is None:
            raise EncoderError(
                f"needed the weights of the bundle; there is none of {[str(file) for file in files]}. Pass checkpoint=…"
            )
    if trusted:
        made: Callable[[], nn.Module] = partial(run_config, path, folder, node)
        recipe = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()  # a node may refer to anything in it
    else:
        plan = plan_network(content[node], content, path, (node,))
        made = partial(instantiate, plan)
        recipe = hashlib.blake2b(repr(plan).encode(), digest_size=8).hexdigest()

    def build() -> nn.Module:
        network = made()
        if not isinstance(network, nn.Module):
            raise EncoderError(f"needed a network at {node!r} of {path}; {type(network).__name__} is there.")
        # What a configuration says need not show in the repr of the network, from which the fingerprint is made.
        network.extra_repr = partial(str, f"config={recipe}")  # type: ignore[method-assign]
        return network

    network = load_or_draw_weights(
        build, checkpoint, seed, sha256, lambda weights: strip_wrappers(weights, prefix), unused
    )
    declared = {"size": size, "channels": channels, "intensity": "quantile"}
    return tap_network(network, layers, checkpoint, seed, name or folder.resolve().name, **{**declared, **options})
