"""Files laid out as MRI-CORE's published one, with random weights of a narrower network."""

import math
import re

import torch

from mi_callback.encoders.mri_core import build_mri_core

WIDTH, HIDDEN, DEPTH, HEADS = 128, 192, 12, 2

LAYERS = (3, 7, 11)


def backbone(scaled: bool = False, width: int = WIDTH, hidden: int = HIDDEN, depth: int = DEPTH):
    """The published keys below `teacher.backbone.`, blocks not in chunks."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int, around: float = 0.0, scale: float = 0.2):
        return around + scale * torch.randn(*shape, generator=generator)

    weights = {
        "cls_token": random(1, 1, width),
        "pos_embed": random(1, 197, width),
        "mask_token": random(1, width),
        "patch_embed.proj.weight": random(width, 3, 16, 16, scale=0.05),
        "patch_embed.proj.bias": random(width),
    }
    for i in range(depth):
        for name, size_out, size_in in [
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
            ("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden),
        ]:  # fmt: skip
            weights[f"blocks.{i}.{name}.weight"] = random(size_out, size_in, scale=1.5 / math.sqrt(size_in))
            weights[f"blocks.{i}.{name}.bias"] = random(size_out)
        for norm in ("norm1", "norm2"):
            weights[f"blocks.{i}.{norm}.weight"] = random(width, around=1.0)
            weights[f"blocks.{i}.{norm}.bias"] = random(width)
        if scaled:
            weights |= {f"blocks.{i}.ls{k}.gamma": random(width, around=0.5) for k in (1, 2)}
    return weights | {"norm.weight": random(width, around=1.0), "norm.bias": random(width)}


def chunked(weights):
    """Blocks as DINOv2 saves them: four chunks of three, numbered through."""
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks.{int(found[1]) // 3}.{found[1]}.", key): value
        for key, value in weights.items()
    }


def save(path, weights):
    """As the published file: the teacher's backbone beside its head."""
    teacher = {f"backbone.{key}": value for key, value in weights.items()}
    torch.save({"teacher": teacher | {"dino_head.mlp.0.weight": torch.zeros(4, 4)}}, path)
    return path


def features_of(checkpoint, images, **options):
    return build_mri_core(checkpoint, **options)(images)
