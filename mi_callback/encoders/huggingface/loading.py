"""A transformers model from a folder, the Hugging Face cache or the hub: safetensors only, and none of its own code."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.encoders.checkpoints import describe_error, first_of
from mi_callback.errors import EncoderError

# Weights and the two kinds of settings; never pickles, code, or half-precision duplicates.
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)


def find_folder(model: str | Path | None, revision: str | None, local_files_only: bool) -> Path:
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
            f"needed the model {model!r} from the Hugging Face hub; {describe_error(error)}. If it is gated, accept "
            f"its terms at https://huggingface.co/{model} and log in with: hf auth login."
        ) from error


def load_backbone(folder: Path, source: str) -> tuple[nn.Module, list[str]]:
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
                f"from the model's author; {source} is none: {describe_error(error)}."
            ) from error
    mismatched = sorted(str(found[0]) for found in report["mismatched_keys"])
    if mismatched:
        raise EncoderError(f"{describe_loss(backbone, source)} of another shape {first_of(mismatched)}.")
    return backbone.float().eval(), sorted(report["missing_keys"])


def spoil_missing(backbone: nn.Module, missing: Sequence[str], source: str) -> list[Tensor]:
    """Fill the tensors that no file holds with NaN, so that what depends on them shows it.

    A pooler or a last norm may be missing where the hidden states come before it. Which weights those are differs
    from family to family and version to version; the network itself knows.
    """
    held = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    if unknown := [key for key in missing if key not in held]:
        raise EncoderError(f"{describe_loss(backbone, source)} missing {first_of(unknown)}.")
    # Integers are tables of positions, computed and not learned.
    lost = [held[key].detach() for key in missing if held[key].is_floating_point()]
    for tensor in lost:
        tensor.fill_(torch.nan)
    return lost


def describe_loss(backbone: nn.Module, source: str) -> str:
    """The beginning of an error about weights that the files do not hold as the network needs them."""
    return f"needed the weights of {type(backbone).__name__}; in {source} are"


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


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise EncoderError(
            f"needed the package transformers; it cannot be imported ({error}). Install it: "
            "pip install 'mi-callback[hf]'."
        ) from error
    return transformers
