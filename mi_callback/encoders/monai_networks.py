"""Networks of MONAI, of images and of volumes, with weights from files: ResNet, MedicalNet, ViT, SwinUNETR, bundles.

A network without a checkpoint is an error. `checkpoint="random"` asks for random weights by name, drawn from `seed`: a
baseline that finds unchanged copies and says what the training of a network adds.

MONAI is imported when an encoder is built: it takes seconds. Its ViT and SwinUNETR need einops besides, which
`pip install 'mi-callback[monai]'` installs.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mi_callback.encoders.base import Card, HookedEncoder
from mi_callback.encoders.checkpoints import initialised, load_weights, read_checkpoint, strip_prefix
from mi_callback.encoders.pooling import Layer, Layout
from mi_callback.errors import EncoderError

RANDOM = "random"
"""The checkpoint that is none."""

DEPTHS = (10, 18, 34, 50, 101, 152, 200)

Layers = Mapping[str, Layout | Layer]


def build_monai_resnet(
    checkpoint: str | Path | None = None,
    depth: int = 50,
    dims: int = 3,
    size: int | Sequence[int] | None = None,
    channels: int = 1,
    stem_stride: int = 1,
    shortcut: str = "B",
    bias_downsample: bool = True,
    dilated: bool = False,
    widen: float = 1.0,
    layers: Layers | None = None,
    prefix: str = "",
    unused: Sequence[str] = (),
    sha256: str | None = None,
    seed: int = 0,
    name: str = "monai_resnet",
    **options: Any,
) -> HookedEncoder:
    """`monai.networks.nets.resnet{depth}`, its last three stages tapped. The defaults are those of MONAI.

    Args:
        checkpoint: safetensors or a `torch.save` file of tensors, or `"random"`.
        depth: 10, 18, 34, 50, 101, 152 or 200.
        dims: 3 for volumes, 2 for images.
        size: Of the input; 96 along each side of volumes and 224 of images when None.
        channels: That the first convolution takes; grey images are repeated.
        stem_stride: Stride of the first convolution.
        shortcut: `A` (subsampling, channels filled up with zeros) or `B` (convolution), as the weights were trained.
        bias_downsample: Whether the convolutions of shortcut B have biases.
        dilated: Whether the last two stages keep the resolution of the second and dilate their convolutions (by 2 and
            4) instead of striding.
        widen: Factor on the number of channels.
        layers: Other submodules to tap, with their layouts.
        prefix: What the keys of the network begin with in the checkpoint; `module.`, `backbone.` and `encoder.` are
            recognised.
        unused: Beginnings of keys of the checkpoint that are not of the network; heads (`fc.`) need not be named.
        sha256: Hexadecimal digest that the checkpoint must have.
        seed: Of random weights.
        options: Others of `HookedEncoder`: `intensity` (by default `zscore`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network.
    """
    if depth not in DEPTHS:
        raise EncoderError(f"needed a depth out of {list(DEPTHS)}; {depth!r} came.")
    _check_dims(dims)

    def build() -> nn.Module:
        from monai.networks import nets

        network: nn.Module = getattr(nets, f"resnet{depth}")(
            spatial_dims=dims,
            n_input_channels=channels,
            conv1_t_stride=stem_stride,
            shortcut_type=shortcut,
            bias_downsample=bias_downsample,
            widen_factor=widen,
            feed_forward=False,
        )
        if dilated:
            _dilate(network)
        return network

    def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _below(weights, prefix, "backbone.", "encoder.")

    network = _weighted(build, checkpoint, seed, sha256, renamed, ("fc.", *unused))
    layout: Layout = "BCDHW" if dims == 3 else "BCHW"
    declared = {"size": _sized(size or (96 if dims == 3 else 224), dims), "channels": channels, "intensity": "zscore"}
    layers = layers or {"layer2": layout, "layer3": layout, "layer4": layout}
    return _tapped(network, layers, checkpoint, seed, f"{name}{depth}", **{**declared, **options})


def build_medicalnet(
    checkpoint: str | Path | None = None, depth: int = 10, dilated: bool = True, **options: Any
) -> HookedEncoder:
    """MedicalNet: a 3D ResNet trained to segment 23 data sets of MRI and CT.

    The network is that which was trained: stride 2 in the first convolution, shortcut A at depths 18 and 34, and the
    last two stages dilated, so that their maps have an eighth of the input's resolution. MONAI loads the same weights
    into a network that strides there (`dilated=False`): smaller maps and less memory, but features other than those
    that were trained. Training scaled the voxels above 0 to zero mean and unit variance; here it is the whole volume,
    background included.

    Args:
        checkpoint: `resnet_{depth}_23dataset.pth` or `resnet_{depth}.pth` from huggingface.co/TencentMedicalNet, or
            `"random"`.
        depth: 10, 18, 34, 50, 101, 152 or 200.
        dilated: See above.
        options: Others of `build_monai_resnet`.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network.

    References:
        Chen, Ma and Zheng, "Med3D: Transfer Learning for 3D Medical Image Analysis", arXiv 1904.00625 (2019).
    """
    return build_monai_resnet(
        checkpoint,
        depth,
        **{
            "stem_stride": 2,
            "shortcut": "A" if depth in (18, 34) else "B",
            "bias_downsample": False,
            "dilated": dilated,
            "unused": ("conv_seg.",),  # the segmentation head, which some of the files hold
            "name": "medicalnet",
            **options,
        },
    )


def build_monai_vit(
    checkpoint: str | Path | None = None,
    dims: int = 3,
    size: int | Sequence[int] | None = None,
    patch: int = 16,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp: int | None = None,
    class_token: bool = False,
    position: str = "learnable",
    qkv_bias: bool = False,
    channels: int = 1,
    taps: int = 3,
    layers: Layers | None = None,
    prefix: str = "",
    unused: Sequence[str] = (),
    sha256: str | None = None,
    seed: int = 0,
    name: str = "monai_vit",
    **options: Any,
) -> HookedEncoder:
    """`monai.networks.nets.ViT`, tapped behind blocks that are spread evenly over its depth.

    The defaults are a ViT-B/16³ at 96³ voxels without a class token, as BrainIAC is one (whose weights are for
    non-commercial use only).

    Args:
        checkpoint: safetensors or a `torch.save` file of tensors, or `"random"`.
        dims: 3 for volumes, 2 for images.
        size: Of the input, a multiple of `patch`; 96 along each side of volumes and 224 of images when None. Learnt
            position embeddings fit one size only.
        width: Of the tokens.
        depth: Number of blocks.
        heads: Of attention, in each block.
        mlp: Width of the hidden layer in each block; four times that of the tokens when None.
        class_token: Whether a token stands in front of those of the patches (`classification=True` in MONAI).
        position: `learnable` or `sincos` embeddings of the positions.
        qkv_bias: Whether queries, keys and values have biases.
        taps: How many blocks are tapped.
        layers: Submodules to tap instead, with their layouts.
        prefix: What the keys of the network begin with in the checkpoint; `module.`, `backbone.`, `vit.` and
            `encoder.` are recognised.
        unused: Beginnings of keys of the checkpoint that are not of the network. MONAI's classification head, and the
            cross attention that its older versions wrote and never used, need not be named.
        sha256: Hexadecimal digest that the checkpoint must have.
        seed: Of random weights.
        options: Others of `HookedEncoder`: `intensity` (by default `zscore`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network.
    """
    _check_dims(dims)
    sides = _sized(size or (96 if dims == 3 else 224), dims)
    if any(side % patch for side in sides) or width % heads or not 1 <= taps <= depth:
        raise EncoderError(
            f"needed sides that are multiples of the patch, a width that is one of the heads, and 1 to depth taps; "
            f"size {sides}, patch {patch}, width {width}, heads {heads}, depth {depth} and taps {taps} came."
        )

    def build() -> nn.Module:
        _check_einops()
        from monai.networks.nets import ViT

        network: nn.Module = ViT(
            in_channels=channels,
            img_size=sides,
            patch_size=patch,
            hidden_size=width,
            mlp_dim=mlp or 4 * width,
            num_layers=depth,
            num_heads=heads,
            pos_embed_type=position,
            classification=class_token,
            qkv_bias=qkv_bias,
            spatial_dims=dims,
        )
        if class_token:
            del network.classification_head  # nothing taps it, and checkpoints of encoders have none
        return network

    def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _below(weights, prefix, "backbone.", "vit.", "encoder.")

    network = _weighted(
        build, checkpoint, seed, sha256, renamed, ("classification_head.", *unused), lambda key: "cross_attn" in key
    )
    blocks = [round((k + 1) * depth / taps) - 1 for k in range(taps)]
    declared = {"size": sides, "channels": channels, "intensity": "zscore"}
    layers = layers or {f"blocks.{block}": Layer("BNC", int(class_token)) for block in blocks}
    return _tapped(network, layers, checkpoint, seed, name, **{**declared, **options})


def build_swin_unetr(
    checkpoint: str | Path | None = None,
    dims: int = 3,
    size: int | Sequence[int] = 96,
    channels: int = 1,
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    use_v2: bool = False,
    layers: Layers | None = None,
    prefix: str = "",
    sha256: str | None = None,
    seed: int = 0,
    name: str = "swin_unetr",
    **options: Any,
) -> HookedEncoder:
    """The encoder of MONAI's SwinUNETR (`swinViT`), its last three stages tapped at 1/8, 1/16 and 1/32 of the input.

    What is tapped is each stage's output, before the normalisation that goes with it into the decoder. Checkpoints of
    the encoder (`model_swinvit.pt`, of self-supervised training with heads beside it, as BrainSegFounder writes them,
    too) and of a whole SwinUNETR are both read; everything that is not of the encoder is left out.

    `model_swinvit.pt` was trained on CT in Hounsfield units, of which the window from −1000 to 1000 became [0, 1]: for
    CT pass `intensity=(-1000, 1000)`. Other images are scaled to [0, 1] by their quantiles.

    Args:
        checkpoint: safetensors or a `torch.save` file of tensors, or `"random"`.
        dims: 3 for volumes, 2 for images.
        size: Of the input; multiples of 32.
        channels: Of the weights: 1 for `model_swinvit.pt`, 2 or 4 for some of BrainSegFounder; grey is repeated.
        feature_size: Channels of the first stage, a multiple of 12.
        depths: Number of blocks in each stage.
        heads: Of attention, in each stage.
        window: Side of the attention windows.
        use_v2: Whether residual convolutions stand in front of the stages (SwinUNETR-V2).
        layers: Other submodules to tap, with their layouts; stages are `layers1.0` to `layers4.0`.
        prefix: What the keys of the encoder begin with in the checkpoint; `module.`, `backbone.`, `student.`,
            `swinViT.`, `swin_vit.` and `encoder.` are recognised.
        sha256: Hexadecimal digest that the checkpoint must have.
        seed: Of random weights.
        options: Others of `HookedEncoder`: `intensity` (by default `quantile`), `mean`, `std`, `pooling`, `card`.

    Raises:
        EncoderError: If no checkpoint is named, or it has not the weights of this network.

    References:
        Tang et al., "Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis", CVPR 2022.
        Hatamizadeh et al., "Swin UNETR", arXiv 2201.01266 (2022).
    """
    _check_dims(dims)
    sides = _sized(size, dims)
    if any(side % 32 for side in sides) or feature_size % 12 or not len(depths) == len(heads) == 4:
        raise EncoderError(
            "needed sides that are multiples of 32, a feature_size that is one of 12, and four depths and heads; size "
            f"{sides}, feature_size {feature_size}, depths {tuple(depths)} and heads {tuple(heads)} came."
        )

    def build() -> nn.Module:
        _check_einops()
        from monai.networks.nets.swin_unetr import SwinTransformer

        network: nn.Module = SwinTransformer(
            in_chans=channels,
            embed_dim=feature_size,
            window_size=(window,) * dims,
            patch_size=(2,) * dims,
            depths=tuple(depths),
            num_heads=tuple(heads),
            spatial_dims=dims,
            use_v2=use_v2,
        )
        return network

    def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _swin_keys(_below(weights, prefix, "student.", "backbone."))

    # The index of relative positions follows from the window: it is computed, not learnt, and may be absent.
    network = _weighted(build, checkpoint, seed, sha256, renamed, (), lambda key: key.endswith("position_index"))
    layout: Layout = "BCDHW" if dims == 3 else "BCHW"
    declared = {"size": sides, "channels": channels, "intensity": "quantile"}
    layers = layers or {"layers2.0": layout, "layers3.0": layout, "layers4.0": layout}
    return _tapped(network, layers, checkpoint, seed, name, **{**declared, **options})


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
    path, content, node = _network_config(folder, config, node)
    if checkpoint is None:
        files = [folder / "models" / file for file in ("model.safetensors", "model.pt")]
        checkpoint = next((file for file in files if file.is_file()), None)
        if checkpoint is None:
            raise EncoderError(
                f"needed the weights of the bundle; there is none of {[str(file) for file in files]}. Pass checkpoint=…"
            )
    if trusted:
        made: Callable[[], nn.Module] = partial(_parsed, path, folder, node)
        recipe = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()  # a node may refer to anything in it
    else:
        plan = _plain(content[node], content, path, (node,))
        made = partial(_instantiated, plan)
        recipe = hashlib.blake2b(repr(plan).encode(), digest_size=8).hexdigest()

    def build() -> nn.Module:
        network = made()
        if not isinstance(network, nn.Module):
            raise EncoderError(f"needed a network at {node!r} of {path}; {type(network).__name__} is there.")
        # What a configuration says need not show in the repr of the network, from which the fingerprint is made.
        network.extra_repr = partial(str, f"config={recipe}")  # type: ignore[method-assign]
        return network

    network = _weighted(build, checkpoint, seed, sha256, lambda weights: _below(weights, prefix), unused)
    declared = {"size": size, "channels": channels, "intensity": "quantile"}
    return _tapped(network, layers, checkpoint, seed, name or folder.resolve().name, **{**declared, **options})


def _weighted(
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
        renamed: The weights of a checkpoint, under the keys of the network.
        unused: Beginnings of keys of the checkpoint that the network need not have.
        immaterial: Keys that change no feature, which either may have and the other not.
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


def _tapped(
    network: nn.Module, layers: Layers, checkpoint: str | Path | None, seed: int, name: str, **declared: Any
) -> HookedEncoder:
    """The encoder that a network with its weights is; random ones are nobody's, and its name says that they are."""
    if str(checkpoint) == RANDOM:
        name = f"{name} (random, seed {seed})"
        nobody = Card("none: random weights", "none", "no weights", "none: never trained")
        declared["card"] = declared.get("card") or nobody
    return HookedEncoder(network, layers, name=name, **declared)


def _below(weights: Mapping[str, Tensor], prefix: str, *usual: str) -> dict[str, Tensor]:
    """The weights without what data parallel training, and then the model around the network, put before their keys."""
    if not prefix:
        return strip_prefix(strip_prefix(weights, "module."), *usual)
    if not any(key.startswith(prefix) for key in weights):
        raise EncoderError(f"needed keys that begin with {prefix!r}; the checkpoint has {sorted(weights)[:12]}, ….")
    return strip_prefix(weights, prefix)


def _swin_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys as MONAI names them now, and of the encoder alone."""
    named = {}
    for key, value in strip_prefix(weights, "swinViT.", "swin_vit.", "encoder.").items():
        key = key.replace(".mlp.fc", ".mlp.linear")
        key = re.sub(r"^(layers\d\.0)\.0\.", r"\1.", key)  # disruptive autoencoders nest their stages once more
        if key.startswith(("patch_embed.", "layers")):
            named[key] = value
    return named


def _dilate(network: nn.Module) -> None:
    """Give the last two stages the resolution of the second: dilation 2 and 4 where they had strides."""
    for stage, rate in ((network.layer3, 2), (network.layer4, 4)):
        for module in stage.modules():  # type: ignore[operator, union-attr]
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                each = (1,) * len(module.stride)
                module.stride = each
                if max(module.kernel_size) > 1:
                    module.dilation = module.padding = tuple(rate for _ in each)
        for block in stage:  # type: ignore[union-attr]
            if isinstance(block.downsample, partial):  # shortcut A is a function
                block.downsample = partial(block.downsample.func, **{**block.downsample.keywords, "stride": 1})


def _check_dims(dims: int) -> None:
    if dims not in (2, 3):
        raise EncoderError(f"needed dims 2 (images) or 3 (volumes); {dims!r} came.")


def _check_einops() -> None:
    try:
        importlib.import_module("einops")
    except ImportError as error:
        raise EncoderError(
            "needed einops, with which MONAI builds its ViT and SwinUNETR; it is not installed. "
            "pip install 'mi-callback[monai]'"
        ) from error


def _sized(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    sides = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(sides) != dims:
        raise EncoderError(f"needed a size of one number or {dims}; {sides} came.")
    return sides


# Bundles


@dataclass(frozen=True)
class _Module:
    """A module that a configuration asks for."""

    made: type[nn.Module]
    arguments: Mapping[str, Any]


def _network_config(folder: Path, config: str | None, node: str | None) -> tuple[Path, dict[str, Any], str]:
    """The configuration file of a bundle that describes a network, what it says, and where in it."""
    found = [
        path
        for path in sorted((folder / "configs").glob("*"))
        if path.suffix in (".json", ".yaml", ".yml") and path.stem != "metadata"
    ]
    if config is not None:
        found = [path for path in found if config in (path.name, path.stem)]
    if not found:
        raise EncoderError(
            f"needed a MONAI bundle, a folder with configs/{config or '*.json'}; {folder} has none. Fetch it first: "
            "nothing is downloaded."
        )
    for path in sorted(found, key=lambda path: (path.stem != "inference", path.stem != "train")):
        try:
            content = _read_config(path)
        except Exception as error:
            raise EncoderError(f"needed a configuration in JSON or YAML; {path} is none ({error}).") from error
        for key in ("network_def", "network") if node is None else (node,):
            if isinstance(content, dict) and key in content:
                return path, content, key
    raise EncoderError(
        f"needed {'network_def or network' if node is None else node} in one of {[path.name for path in found]} of "
        f"{folder}; none has it. Name the entry that describes the network: node=…"
    )


def _read_config(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _parsed(path: Path, folder: Path, node: str) -> nn.Module:
    """What MONAI makes of the configuration, expressions and all."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path))
    parser["bundle_root"] = str(folder)
    try:
        network: nn.Module = parser.get_parsed_content(node)
    except Exception as error:
        raise EncoderError(f"needed the network {node!r} of {path}; building it failed: {error}") from error
    return network


def _plain(value: Any, content: Mapping[str, Any], path: Path, within: tuple[str, ...]) -> Any:
    """A node of a configuration with its references resolved and its modules found; nothing is run.

    Raises:
        EncoderError: For whatever is more than modules, plain values and references to them.
    """

    def refused(what: str) -> EncoderError:
        return EncoderError(
            f"needed a network of plain values and of modules of monai.networks or torch.nn; {path} says {what} at "
            f"{'::'.join(within)}. It can run code: where you trust every file of the bundle, pass trusted=True."
        )

    if isinstance(value, list):
        return [_plain(part, content, path, (*within, str(i))) for i, part in enumerate(value)]
    if isinstance(value, str):
        if value.startswith("$") or value.startswith("%"):
            raise refused(f"the {'expression' if value[0] == '$' else 'macro'} {value!r}")
        if not value.startswith("@"):
            return value
        if value in within:
            raise EncoderError(f"needed references that end; in {path} {value!r} refers to itself.")
        target: Any = content
        for part in re.split("::|#", value[1:]):
            try:
                target = target[int(part)] if isinstance(target, list) else target[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise refused(f"{value!r}, which refers to nothing,") from None
        return _plain(target, content, path, (*within, value))
    if not isinstance(value, dict):
        return value
    special = {key for key in value if str(key).startswith("_") and str(key).endswith("_")} - {"_target_", "_desc_"}
    if special:
        raise refused(f"{sorted(special)}")
    parts = {
        key: _plain(part, content, path, (*within, str(key)))
        for key, part in value.items()
        if key not in ("_target_", "_desc_")
    }
    if "_target_" not in value:
        return parts
    made = _module_class(value["_target_"])
    if made is None:
        raise refused(f"_target_ {value['_target_']!r}")
    for key in parts:
        if key.startswith("pretrained") and parts[key]:
            if parts[key] is not True:
                raise refused(f"{key}: {parts[key]!r}")
            parts[key] = False  # it would be downloaded, and then overwritten by the checkpoint
    return _Module(made, parts)


def _module_class(target: Any) -> type[nn.Module] | None:
    """The class of that name, if it is a module that `monai.networks` or `torch.nn` defines."""
    if not isinstance(target, str):
        return None
    places = ("monai.networks.nets", "monai.networks.blocks", "monai.networks.layers", "torch.nn")
    where, _, name = target.rpartition(".")
    if where and not f"{where}.".startswith(("monai.networks.", "torch.nn.")):
        return None
    for place in (where,) if where else places:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ImportError:
            continue
        # Where it is defined counts: modules have whatever they import as attributes, `os` for instance.
        is_module = isinstance(found, type) and issubclass(found, nn.Module)
        if is_module and f"{found.__module__}.".startswith(("monai.networks.", "torch.nn.")):
            return found
    return None


def _instantiated(plan: Any) -> Any:
    """What `_plain` planned, modules made."""
    if isinstance(plan, list):
        return [_instantiated(part) for part in plan]
    if isinstance(plan, dict):
        return {key: _instantiated(part) for key, part in plan.items()}
    if not isinstance(plan, _Module):
        return plan
    arguments = {key: _instantiated(part) for key, part in plan.arguments.items()}
    try:
        return plan.made(**arguments)
    except (TypeError, ValueError) as error:
        raise EncoderError(f"needed arguments of {plan.made.__name__}; {arguments} came ({error}).") from error
