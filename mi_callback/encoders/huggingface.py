"""Vision backbones of Hugging Face transformers, by hub id or folder: their hidden states as layers."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.encoders.base import HookedEncoder, Layer
from mi_callback.encoders.checkpoints import first_line, first_of
from mi_callback.encoders.pooling import Layout, Pooling, pool
from mi_callback.errors import EncoderError
from mi_callback.images.preprocessing import Intensity

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Weights and the two kinds of settings; never pickles, code, or half-precision duplicates.
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)


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

    layout: Layout
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


class HiddenStates(nn.Module):
    """Passes each wanted hidden state of a backbone through a module of its own, `hidden.4`, so that it can be tapped.

    Args:
        backbone: A transformers model.
        family: Which tensors it returns.
        standardise: Whether each channel of each image is brought to zero mean and unit variance first.
        options: Further arguments of the backbone's forward.
    """

    def __init__(self, backbone: nn.Module, family: Family, standardise: bool, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone, self.family = backbone, family
        self.standardise, self.options = standardise, dict(options)
        self.hidden = nn.ModuleDict()

    def tap(self, positions: Sequence[int]) -> None:
        """Name the hidden states at `positions`."""
        self.hidden = nn.ModuleDict({str(position): nn.Identity() for position in positions})

    def forward(self, images: Tensor) -> None:
        wanted = [int(position) for position in self.hidden]
        # Newer versions of transformers keep the listed ones only; older ones read a list as True and keep them all.
        states = self.states(images, wanted)
        for position, named in zip(wanted, self.hidden.values(), strict=True):
            named(states[position])

    def states(self, images: Tensor, wanted: bool | list[int] = True) -> tuple[Tensor, ...]:
        """The hidden states of images `(n, channels, h, w)`, in the family's layout."""
        if self.standardise:
            spread, centre = torch.std_mean(images, dim=(2, 3), correction=0, keepdim=True)
            images = (images - centre) / spread.clamp_min(1e-6)
        options = dict(self.options)
        if self.family.masks:  # patches are sorted by this noise: rising, it leaves them in the order of the image
            config: Any = self.backbone.config
            rows, columns = (s // p for s, p in zip(images.shape[2:], _pair(config.patch_size), strict=True))
            options["noise"] = torch.arange(rows * columns, device=images.device).expand(len(images), -1)
        output = self.backbone(pixel_values=images, output_hidden_states=wanted, return_dict=True, **options)
        return tuple(getattr(output, self.family.field))

    def extra_repr(self) -> str:
        """What changes the features beside weights and modules: part of the encoder's fingerprint."""
        return f"{self.family}, standardise={self.standardise}, {self.options}"


def build_huggingface(
    model: str | Path | None = None,
    layers: Sequence[int] | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    intensity: Intensity | Sequence[float] = "minmax",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    pooling: Pooling = "mean",
    standardise: bool = False,
    layout: Layout | None = None,
    prefix_tokens: int | None = None,
    local_files_only: bool = True,
    revision: str | None = None,
    name: str | None = None,
) -> HookedEncoder:
    """Any vision backbone that `transformers.AutoModel` loads; of CLIP, SigLIP and SAM, the vision part.

    Only safetensors are read, and no code that comes with a model is run. Nothing is downloaded unless
    `local_files_only=False`. One image of zeros is encoded to see that the model keeps what is declared of it.

    Args:
        model: Hub id (`facebook/dinov2-base`), or a folder as `save_pretrained` writes it.
        layers: Positions in the model's hidden states, negative ones from the end; 0 is usually the embeddings, so
            that n is the output of the n-th block. Three evenly spread when None, the last one included: of twelve
            blocks 4, 8 and 12, which are the layers 3, 7 and 11 (counted from 0) of Deo et al. 2026.
        size: Input height and width, or one number for a square. When None, what the model's preprocessor says, else
            its config, else 224. Other sizes than the trained one work where the family can interpolate positions.
        channels: As many as the model takes when None; single-channel images are repeated.
        intensity: Scaling before `mean` and `std`, which expect [0, 1] (see `HookedEncoder`).
        mean, std: One number or one per channel. When None, what the model's preprocessor says; where it says
            nothing, those of ImageNet for three channels, else 0 and 1.
        pooling: As in `HookedEncoder`; `cls` needs a family with a CLS token.
        standardise: Bring each channel of each image to zero mean and unit variance, after `intensity` and the
            resizing, in place of `mean` and `std`.
        layout, prefix_tokens: Of the hidden states, for a `model_type` that is not in `FAMILIES`.
        local_files_only: Look in the Hugging Face cache only.
        revision: Branch, tag or commit of a hub model; a commit pins what is loaded.
        name: Shown in reports; `huggingface/` and the `model_type` when None.

    Raises:
        EncoderError: If transformers is not installed, the model is not there, its weights are pickled, missing or of
            another shape, or the model cannot do what is asked.
    """
    folder = _folder(model, revision, local_files_only)
    backbone, missing = _load(folder, str(model))
    config: Any = backbone.config
    kind: str = config.model_type
    family, layer = _declared(config, layout, prefix_tokens)
    convention = _convention(folder)
    channels = _channels(config, channels)
    sides = _sides(config, family, _pair(size) if size else _convention_size(convention) or _trained(config))
    centre, spread = (0.0, 1.0) if standardise else _normalisation(convention, channels)
    network = HiddenStates(backbone, family, standardise, _options(backbone, sides))
    lost = _spoil(backbone, missing, str(model))
    states = _try(network, torch.zeros(1, channels, *sides), kind)
    positions = _positions(layers, len(states), kind)
    if lost and any(states[position].isnan().any() for position in positions):
        raise EncoderError(f"{_without(backbone, str(model))} missing {first_of(missing)}.")
    for tensor in lost:  # nothing that is asked for depends on them; zeros keep the fingerprint the same
        tensor.zero_()
    network.tap(positions)
    for position in positions:
        pool(states[position], layer, pooling, f"hidden.{position}")  # refuses a layout that is not so
    return HookedEncoder(
        network,
        {f"hidden.{position}": layer for position in positions},
        size=sides,
        channels=channels,
        intensity=intensity,
        pooling=pooling,
        name=name or f"huggingface/{kind}",
        mean=centre if mean is None else _numbers(mean),
        std=spread if std is None else _numbers(std),
    )


# Where the model is


def _folder(model: str | Path | None, revision: str | None, local_files_only: bool) -> Path:
    """The folder of a model: the one that was named, or that of the Hugging Face cache."""
    if not model:
        raise EncoderError(
            "needed a model: build_encoder('huggingface', model='facebook/dinov2-base'), or a folder as "
            "save_pretrained writes it; none was named."
        )
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(model)):
        raise EncoderError(f"needed a hub id (owner/name) or a folder; there is no folder {model}.")
    _transformers()  # which brings huggingface_hub
    from huggingface_hub import snapshot_download

    try:
        # Not left to AutoModel: where it finds a pickle alone, it asks a service on the hub to convert it.
        return Path(
            snapshot_download(
                str(model), revision=revision, local_files_only=local_files_only, allow_patterns=list(_FILES)
            )
        )
    except Exception as error:  # the client raises errors of many unrelated kinds
        if local_files_only:
            raise EncoderError(
                f"needed the model {model!r}{f' at {revision!r}' if revision else ''} in the Hugging Face cache; it is "
                f"not there, or not whole. Fetch it once: hf download {model} (older clients: huggingface-cli download "
                f"{model}), or build with local_files_only=False."
            ) from error
        raise EncoderError(
            f"needed the model {model!r} from the Hugging Face hub; {_line(error)}. If it is gated, accept its terms "
            f"at https://huggingface.co/{model} and log in with: hf auth login."
        ) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise EncoderError(
            f"needed the package transformers; it cannot be imported ({error}). Install it: "
            "pip install 'mi-callback[hf]'."
        ) from error
    return transformers


# Loading


def _load(folder: Path, source: str) -> tuple[nn.Module, list[str]]:
    """The vision backbone in float32, and the names of its tensors that the files do not hold."""
    transformers = _transformers()
    if not any(folder.glob("*.safetensors")):
        raise EncoderError(_no_safetensors(folder, source))
    options = {"local_files_only": True, "trust_remote_code": False}
    # Forked: what the files lack is drawn at random (and then refused, or zeroed).
    with torch.random.fork_rng(devices=[]), _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            config = getattr(config, "vision_config", None) or config
            if hasattr(config, "mask_ratio"):
                config.mask_ratio = 0.0
            backbone, report = transformers.AutoModel.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, with their names
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # transformers, safetensors and torch each have their own
            raise EncoderError(
                f"needed a vision model that AutoModel of transformers {transformers.__version__} loads without code "
                f"from the model's author; {source} is none: {_line(error)}."
            ) from error
    mismatched = sorted(str(found[0]) for found in report["mismatched_keys"])
    if mismatched:
        raise EncoderError(f"{_without(backbone, source)} of another shape {first_of(mismatched)}.")
    return backbone.float().eval(), sorted(report["missing_keys"])


def _no_safetensors(folder: Path, source: str) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if not pickles:
        return f"needed weights as safetensors; {source} holds {sorted(path.name for path in folder.iterdir())[:20]}."
    return (
        f"needed weights as safetensors; {source} holds {pickles}, which are pickles: they can run code when they are "
        "loaded. Where you trust their author, convert them once, on a machine without patient data: "
        "AutoModel.from_pretrained(folder).save_pretrained(new_folder), and pass that folder."
    )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No table of the weights that are rightly left out, a text tower's say; the wrong ones become errors."""
    log = transformers.utils.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(before)


def _spoil(backbone: nn.Module, missing: Sequence[str], source: str) -> list[Tensor]:
    """Fill the tensors that no file holds with NaN, so that what depends on them shows it.

    A pooler or a last norm may be missing where the hidden states come before it. Which weights those are differs
    from family to family and version to version; the network itself knows.
    """
    held = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    if unknown := [key for key in missing if key not in held]:
        raise EncoderError(f"{_without(backbone, source)} missing {first_of(unknown)}.")
    # Integers are tables of positions, computed and not learned.
    lost = [held[key].detach() for key in missing if held[key].is_floating_point()]
    for tensor in lost:
        tensor.fill_(torch.nan)
    return lost


def _without(backbone: nn.Module, source: str) -> str:
    return f"needed the weights of {type(backbone).__name__}; in {source} are"


# What it takes and returns


def _declared(config: Any, layout: Layout | None, prefix_tokens: int | None) -> tuple[Family, Layer]:
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


def _channels(config: Any, asked: int | None) -> int:
    takes = int(getattr(config, "num_channels", 3) or 3)
    if asked not in (None, takes):
        raise EncoderError(f"needed the {takes} channels that this {config.model_type} takes; channels={asked} came.")
    return takes


def _trained(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None)
    return _pair(size) if size else (224, 224)


def _sides(config: Any, family: Family, sides: tuple[int, int]) -> tuple[int, int]:
    trained = _trained(config)
    if family.fixed and sides != trained:
        raise EncoderError(
            f"needed the size {trained}, the only one that this {config.model_type} takes; {sides} came."
        )
    patch = getattr(config, "patch_size", None)
    if family.layout == "BNC" and patch and any(s % p for s, p in zip(sides, _pair(patch), strict=True)):
        raise EncoderError(
            f"needed a size that is whole patches of {_pair(patch)}; {sides} came, and the pixels left over would not "
            "be seen."
        )
    return sides


def _options(backbone: nn.Module, sides: tuple[int, int]) -> dict[str, Any]:
    """Positions are interpolated where the model does that when asked, and the size is not the trained one."""
    asks = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if asks and sides != _trained(backbone.config) else {}


@torch.no_grad()
def _try(network: HiddenStates, images: Tensor, kind: str) -> tuple[Tensor, ...]:
    try:
        states = network.eval().states(images)
    except Exception as error:  # each family refuses in its own way
        raise EncoderError(
            f"needed hidden states from this {kind} for images of shape {tuple(images.shape[1:])}; it refuses them: "
            f"{_line(error)}. It was trained at {_trained(network.backbone.config)}: pass size=…."
        ) from error
    return states


def _positions(layers: Sequence[int] | None, count: int, kind: str) -> list[int]:
    last = count - 1
    if layers is None:
        spread = [max(1, round(last * third / 3)) for third in (1, 2, 3)]
        return sorted({min(last, position) for position in spread})
    asked = [int(position) for position in layers]
    found = [position % count for position in asked if -count <= position < count]
    if not asked or len(set(found)) < len(asked):
        raise EncoderError(
            f"needed different positions in the {count} hidden states of this {kind}, {-count} to {last}; {asked} came."
        )
    return found


# What it was trained on


def _convention(folder: Path) -> Mapping[str, Any]:
    """The settings of the model's image processor, where it has one."""
    for path in (folder / "preprocessor_config.json", folder / "processor_config.json"):
        if path.is_file():
            try:
                settings = json.loads(path.read_text())
            except ValueError as error:
                raise EncoderError(f"needed JSON in {path}; {_line(error)}.") from error
            return settings.get("image_processor", settings)
    return {}


def _convention_size(convention: Mapping[str, Any]) -> tuple[int, int] | None:
    crops = convention.get("do_center_crop") is not False
    size = (convention.get("crop_size") if crops else None) or convention.get("size")
    return _pair(size) if size else None


def _normalisation(convention: Mapping[str, Any], channels: int) -> tuple[Any, Any]:
    """Mean and std for images in [0, 1]."""
    if convention.get("do_normalize") is False:
        return 0.0, 1.0
    if "image_mean" not in convention:
        return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (0.0, 1.0)
    # The processor sees 0 to 255 and scales it, nearly always by 1/255.
    gain = 1.0 if convention.get("do_rescale") is False else 255 * convention.get("rescale_factor", 1 / 255)
    mean, std = _numbers(convention["image_mean"]), _numbers(convention["image_std"])
    return [value / gain for value in mean], [value / gain for value in std]


def _numbers(values: float | Sequence[float]) -> list[float]:
    """Also from a list of OmegaConf."""
    return [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]


def _pair(size: int | Sequence[int] | Mapping[str, int]) -> tuple[int, int]:
    if isinstance(size, Mapping):
        known = ("shortest_edge", "shortest_edge") if "shortest_edge" in size else ("longest_edge", "longest_edge")
        size = [size.get(key, 0) for key in (("height", "width") if "height" in size else known)]
    sides = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    if len(sides) != 2 or min(sides) < 1:
        raise EncoderError(f"needed a size of (height, width), or one number for a square; {size!r} came.")
    return sides


def _line(error: Exception) -> str:
    told = first_line(error).rstrip(".")
    return told if told == type(error).__name__ else f"{type(error).__name__}: {told}"
