"""ResNets of MONAI, of images and volumes, and MedicalNet, which is one of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.monai.weights import (
    Layers,
    check_dims,
    expand_size,
    load_or_draw_weights,
    strip_wrappers,
    tap_network,
)
from mi_callback.encoders.pooling import Layout
from mi_callback.errors import EncoderError, choice

DEPTHS = (10, 18, 34, 50, 101, 152, 200)
"""Those that MONAI has."""


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
        EncoderError: If no checkpoint is named, or it has not the weights of this network; if an option is unknown.
    """
    if depth not in DEPTHS:
        raise EncoderError(f"needed a depth out of {list(DEPTHS)}; {depth!r} came.")
    choice("a shortcut", shortcut, ("A", "B"), EncoderError)
    check_dims(dims)

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
        return strip_wrappers(weights, prefix, "backbone.", "encoder.")

    network = load_or_draw_weights(build, checkpoint, seed, sha256, renamed, ("fc.", *unused))
    layout = Layout.BCDHW if dims == 3 else Layout.BCHW
    declared = {
        "size": expand_size(size or (96 if dims == 3 else 224), dims),
        "channels": channels,
        "intensity": "zscore",
    }
    layers = layers or {"layer2": layout, "layer3": layout, "layer4": layout}
    return tap_network(network, layers, checkpoint, seed, f"{name}{depth}", **{**declared, **options})


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
