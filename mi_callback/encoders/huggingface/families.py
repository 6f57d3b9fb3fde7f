"""How the vision models of each `model_type` return their hidden states, and what sizes they take."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mi_callback.encoders.pooling import Layer, Layout
from mi_callback.errors import EncoderError


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` return their hidden states.

    Attributes:
        layout: Of each hidden state.
        cls: Whether a CLS token comes first, and after it as many registers as the config says.
        field: Where in the model's output they are. Hiera's `hidden_states` are not in the order of the image;
            its and Swin's reshaped ones are maps.
        fixed: Whether the model takes its trained size only.
        masks: Whether it drops and shuffles patches unless told not to.
    """

    layout: Layout | str
    cls: bool = False
    field: str = "hidden_states"
    fixed: bool = False
    masks: bool = False

    def prefix_tokens(self, config: Any) -> int:
        """CLS and register tokens in front of the patches."""
        return 1 + int(getattr(config, "num_register_tokens", 0) or 0) if self.cls else 0


_TOKENS, _PATCHES, _MAPS = Family("BNC", cls=True), Family("BNC"), Family("BCHW")

FAMILIES: dict[str, Family] = {
    "beit": _TOKENS,
    "clip_vision_model": _TOKENS,
    "convnext": _MAPS,
    "convnextv2": _MAPS,
    "dinov2": _TOKENS,
    "dinov2_with_registers": _TOKENS,
    "dinov3_convnext": _MAPS,
    "dinov3_vit": _TOKENS,
    "hiera": Family("BHWC", field="reshaped_hidden_states", fixed=True),
    "ijepa": _PATCHES,
    "mobilenet_v2": _MAPS,
    "pvt_v2": _MAPS,
    "regnet": _MAPS,
    "resnet": _MAPS,
    "sam_vision_model": Family("BHWC", fixed=True),
    "siglip_vision_model": _PATCHES,
    "swin": Family("BCHW", field="reshaped_hidden_states"),
    "swinv2": Family("BCHW", field="reshaped_hidden_states"),
    "vit": _TOKENS,
    "vit_mae": Family("BNC", cls=True, masks=True),
}
"""`model_type` in a model's config.json → its family. Of models with several parts, that of the vision part."""


def declare_layer(config: Any, layout: Layout | str | None, prefix_tokens: int | None) -> tuple[Family, Layer]:
    """The family of a model and what its hidden states are: known by its `model_type`, else as the user declares.

    Raises:
        EncoderError: If what is known is declared too, or what is not known is not.
    """
    kind = config.model_type
    if kind in FAMILIES:
        if layout is not None or prefix_tokens is not None:
            raise EncoderError(
                f"needed neither layout nor prefix_tokens for {kind!r}, whose hidden states are known; {layout=} and "
                f"{prefix_tokens=} came. Leave them out."
            )
        family = FAMILIES[kind]
        return family, Layer(family.layout, family.prefix_tokens(config))
    if layout is None:
        raise EncoderError(
            f"needed a model_type whose hidden states are known, out of {list(FAMILIES)}; {kind!r} came. Declare them: "
            "layout='BNC' with prefix_tokens=…, or layout='BCHW' or 'BHWC'."
        )
    return Family(layout), Layer(layout, prefix_tokens or 0)


def check_channels(config: Any, asked: int | None) -> int:
    """The channels that a model takes, which are those that were asked for, if any were."""
    takes = int(getattr(config, "num_channels", 3) or 3)
    if asked not in (None, takes):
        raise EncoderError(f"needed the {takes} channels that this {config.model_type} takes; channels={asked} came.")
    return takes


def trained_size(config: Any) -> tuple[int, int]:
    """Height and width at which a model was trained; 224 where its config does not say."""
    size = getattr(config, "image_size", None)
    return as_pair(size) if size else (224, 224)


def check_size(config: Any, family: Family, sides: tuple[int, int]) -> tuple[int, int]:
    """The size of the input, if the model takes it and sees all of it."""
    trained = trained_size(config)
    if family.fixed and sides != trained:
        raise EncoderError(
            f"needed the size {trained}, the only one that this {config.model_type} takes; {sides} came."
        )
    patch = getattr(config, "patch_size", None)
    if family.layout == "BNC" and patch and any(s % p for s, p in zip(sides, as_pair(patch), strict=True)):
        raise EncoderError(
            f"needed a size that is whole patches of {as_pair(patch)}; {sides} came, and the pixels left over would "
            "not be seen."
        )
    return sides


def position_options(backbone: nn.Module, sides: tuple[int, int]) -> dict[str, Any]:
    """Positions are interpolated where the model does that when asked, and the size is not the trained one."""
    asks = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if asks and sides != trained_size(backbone.config) else {}


def as_pair(size: int | Sequence[int] | Mapping[str, int]) -> tuple[int, int]:
    """Height and width from one number, two, or what an image processor's settings call a size."""
    if isinstance(size, Mapping):
        known = ("shortest_edge", "shortest_edge") if "shortest_edge" in size else ("longest_edge", "longest_edge")
        size = [size.get(key, 0) for key in (("height", "width") if "height" in size else known)]
    sides = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    if len(sides) != 2 or min(sides) < 1:
        raise EncoderError(f"needed a size of (height, width), or one number for a square; {size!r} came.")
    return sides
