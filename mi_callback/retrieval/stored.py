"""Features as the tensors of a file, and back: those of pose 0, thumbnails, and the names of subjects and files."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_callback.retrieval.features import Features


def header_of(images: Features) -> dict[str, Any]:
    """What they hold, as JSON holds it: names of layers, windows, views and descriptors."""
    return {
        "layers": list(images.layers),
        "windows": list(images.windows),
        "views": list(images.views),
        "descriptors": list(images.descriptors),
    }


def tensors_of(name: str, images: Features) -> dict[str, Tensor]:
    """`{key: tensor}`; keys begin with a name.

    Subjects and files are among them: of a million images they are more than a header may hold.
    """
    kinds = {"": images.layers, "windows/": images.windows}
    kinds |= {f"{view}/": pooled for view, pooled in images.views.items()}
    features = {
        f"{name}/{kind}{layer}": bank[0].contiguous()
        for kind, pooled in kinds.items()
        for layer, bank in pooled.items()
    }
    features |= {f"{name}_described/{key}": found[0].contiguous() for key, found in images.descriptors.items()}
    listed = {f"{name}_subjects": images.subjects, f"{name}_sources": images.sources}
    names = {key: _packed(each) for key, each in listed.items() if each is not None}
    return features | names | {f"{name}_thumbnails": images.thumbnails.contiguous()}


def features_from(tensors: Mapping[str, Tensor], name: str, header: Mapping[str, Any]) -> Features:
    """What `tensors_of` and `header_of` made tensors and a header of."""

    def pooled(kind: str, layers: list[str]) -> dict[str, Tensor]:
        return {layer: tensors[f"{name}/{kind}{layer}"][None] for layer in layers}

    return Features(
        pooled("", header["layers"]),
        tensors[f"{name}_thumbnails"],
        _unpacked(tensors.get(f"{name}_subjects")),
        _unpacked(tensors.get(f"{name}_sources")),
        pooled("windows/", header["windows"]),
        {view: pooled(f"{view}/", header["layers"]) for view in header["views"]},
        {look: tensors[f"{name}_described/{look}"][None] for look in header["descriptors"]},
    )


def _packed(names: Sequence[str]) -> Tensor:
    return torch.from_numpy(np.frombuffer(json.dumps(list(names)).encode(), np.uint8).copy())


def _unpacked(names: Tensor | None) -> list[str] | None:
    return None if names is None else json.loads(names.numpy().tobytes())
