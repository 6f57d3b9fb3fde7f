"""Every encoder that has a name: how it is built, and what its users must know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from mi_callback.encoders.base import Card, Encoder


@dataclass(frozen=True)
class Entry:
    """One named encoder.

    Attributes:
        builder: Makes it from options: a function, or `"module:function"`, imported when it is asked for.
        card: Licence, citation and source of its weights.
        options: Passed to the builder where the user names no other.
        needs: What the user must bring, as the call that builds it says it; empty where nothing.
        dims: Spatial dimensions of what it encodes: 2 for images, 3 for volumes.
    """

    builder: str | Callable[..., Encoder]
    card: Card = field(default_factory=Card)
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    dims: int = 2

    def build(self, **options: Any) -> Encoder:
        builder = self.builder
        if isinstance(builder, str):
            module, _, function = builder.partition(":")
            builder = getattr(import_module(module), function)
        return builder(**{**self.options, **options})


CATALOGUE: dict[str, Entry] = {
    "bundled": Entry(
        "mi_callback.encoders.bundled:build_bundled",
        Card(
            licence="Apache-2.0",
            citation="mi_callback, encoders/weights/MODEL_CARD.md",
            source="ships with the package",
            modality="MRI (brain, spine, hippocampus)",
        ),
    ),
    "pixels": Entry(
        "mi_callback.encoders.pixels:build_pixels",
        Card(licence="Apache-2.0", citation="none: block means", source="no weights", modality="any"),
    ),
    "module": Entry("mi_callback.encoders.base:HookedEncoder", needs="network=…, layers={…}, size=…"),
    "monai_resnet": Entry(
        "mi_callback.encoders.monai_networks:build_monai_resnet",
        Card(
            licence="see the checkpoint's authors",
            citation="network: He et al. 2016, arXiv 1512.03385; weights: the checkpoint's",
            source="the user's own",
            modality="the checkpoint's",
        ),
        needs="checkpoint='weights.safetensors'",
        dims=3,
    ),
    "medicalnet": Entry(
        "mi_callback.encoders.monai_networks:build_medicalnet",
        Card(
            licence="MIT",
            citation="Chen, Ma and Zheng, Med3D: Transfer Learning for 3D Medical Image Analysis, arXiv 1904.00625",
            source="huggingface.co/TencentMedicalNet, github.com/Tencent/MedicalNet",
            modality="MRI and CT, 23 data sets of several organs",
        ),
        needs="checkpoint='resnet_10_23dataset.pth', depth=10",
        dims=3,
    ),
    "monai_vit": Entry(
        "mi_callback.encoders.monai_networks:build_monai_vit",
        Card(
            licence="see the checkpoint's authors",
            citation="network: Dosovitskiy et al. 2021, arXiv 2010.11929; weights: the checkpoint's",
            source="the user's own",
            modality="the checkpoint's",
        ),
        needs="checkpoint='weights.safetensors'",
        dims=3,
    ),
    "swin_unetr": Entry(
        "mi_callback.encoders.monai_networks:build_swin_unetr",
        Card(
            licence="see github.com/Project-MONAI/MONAI-extra-test-data",
            citation="Tang et al., Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis, "
            "CVPR 2022, arXiv 2111.14791",
            source="model_swinvit.pt, github.com/Project-MONAI/MONAI-extra-test-data, release 0.8.1",
            modality="CT",
        ),
        needs="checkpoint='model_swinvit.pt'",
        dims=3,
    ),
    "monai_bundle": Entry(
        "mi_callback.encoders.monai_networks:build_monai_bundle",
        Card(
            licence="see the bundle's LICENSE",
            citation="the bundle's: docs/README.md and configs/metadata.json",
            source="the user's own, or github.com/Project-MONAI/model-zoo",
            modality="the bundle's",
        ),
        needs="bundle='folder', layers={…}, size=…",
        dims=3,
    ),
    "torchscript": Entry(
        "mi_callback.encoders.exported:build_torchscript",
        Card(licence="see the file's authors", citation="the file's", source="the user's own"),
        needs="checkpoint='network.pt', size=…, trusted=True",
    ),
    "exported": Entry(
        "mi_callback.encoders.exported:build_exported",
        Card(licence="see the file's authors", citation="the file's", source="the user's own"),
        needs="checkpoint='network.pt2', size=…, trusted=True",
    ),
    "sscd": Entry(
        "mi_callback.encoders.exported:build_torchscript",
        Card(
            licence="MIT",
            citation="Pizzi et al., A Self-Supervised Descriptor for Image Copy Detection, CVPR 2022, arXiv 2202.10261",
            source="sscd_disc_mixup.torchscript.pt, github.com/facebookresearch/sscd-copy-detection",
            modality="photographs (DISC)",
        ),
        # Its README resizes the short side to 288, or images to squares of 320, and normalises as for ImageNet.
        options={
            "size": 288,
            "channels": 3,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "name": "sscd",
        },
        needs="checkpoint='sscd_disc_mixup.torchscript.pt', trusted=True",
    ),
}
"""Name → entry; `register` adds to it."""
