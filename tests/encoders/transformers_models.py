"""Small models of every family of transformers, with random weights, saved as on the hub."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

SIDE = 64
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {**BLOCKS, "num_hidden_layers": 1, "vocab_size": 20, "max_position_embeddings": 8}
SQUARE = {"image_size": SIDE, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {
    "image_size": SIDE,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
SAM = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_dim": 64, "output_channels": 8,
    "window_size": 4, "global_attn_indexes": [1, 3], **SQUARE,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "beit": lambda: transformers.BeitConfig(
        **BLOCKS, **SQUARE, use_absolute_position_embeddings=True, use_relative_position_bias=True
    ),
    "clip_vision_model": lambda: transformers.CLIPVisionConfig(**BLOCKS, **SQUARE),
    "convnext": lambda: transformers.ConvNextConfig(**STAGES, image_size=SIDE),
    "convnextv2": lambda: transformers.ConvNextV2Config(**STAGES, image_size=SIDE),
    "dinov2": lambda: transformers.Dinov2Config(**BLOCKS, **SQUARE),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersConfig(**BLOCKS, **SQUARE, num_register_tokens=3),
    "dinov3_convnext": lambda: transformers.DINOv3ConvNextConfig(**STAGES, image_size=SIDE),
    "dinov3_vit": lambda: transformers.DINOv3ViTConfig(**BLOCKS, **SQUARE, num_register_tokens=4),
    "hiera": lambda: transformers.HieraConfig(
        embed_dim=8, image_size=(SIDE, SIDE), depths=[1, 1, 2], num_heads=[1, 2, 4], num_query_pool=2,
        masked_unit_size=(4, 4), masked_unit_attention=[True, True, False],
    ),
    "ijepa": lambda: transformers.IJepaConfig(**BLOCKS, **SQUARE),
    "mobilenet_v2": lambda: transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=SIDE),
    "pvt_v2": lambda: transformers.PvtV2Config(
        hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 4], depths=[1, 1, 1, 1], mlp_ratios=[2, 2, 2, 2],
        image_size=SIDE,
    ),
    "regnet": lambda: transformers.RegNetConfig(**STAGES, embedding_size=8, groups_width=8),
    "resnet": lambda: transformers.ResNetConfig(**STAGES, embedding_size=8, layer_type="basic"),
    "sam_vision_model": lambda: transformers.SamVisionConfig(**SAM),
    "siglip_vision_model": lambda: transformers.SiglipVisionConfig(**BLOCKS, **SQUARE),
    "swin": lambda: transformers.SwinConfig(**SWIN, use_absolute_embeddings=True),
    "swinv2": lambda: transformers.Swinv2Config(**SWIN),
    "vit": lambda: transformers.ViTConfig(**BLOCKS, **SQUARE),
    "vit_mae": lambda: transformers.ViTMAEConfig(**BLOCKS, **SQUARE, mask_ratio=0.75),
}  # fmt: skip


# Position of every map that a family returns, and how many tokens come before it.
PREFIX = {"beit": 1, "clip_vision_model": 1, "dinov2": 1, "dinov2_with_registers": 4, "dinov3_vit": 5, "ijepa": 0,
          "siglip_vision_model": 0, "vit": 1, "vit_mae": 1}  # fmt: skip
FIXED = {"hiera", "sam_vision_model"}
# Convolutions whose last map, random, is too small or too flat to tell its corners apart.
DEEP = {"mobilenet_v2", "regnet", "resnet"}


def saved(config: Any, folder: Path, seed: int = 0) -> Path:
    """A model of random weights in `folder`, biases and norms too: zeros and ones would hide what they do."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder


def reference(folder: Path, images: torch.Tensor, config: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """The output of the model itself on images that are normalised by hand."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    settings = transformers.AutoConfig.from_pretrained(folder, **(config or {}))
    settings = getattr(settings, "vision_config", settings)
    network = transformers.AutoModel.from_pretrained(folder, config=settings).eval()
    ready = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        return network(pixel_values=ready, output_hidden_states=True, **options)
