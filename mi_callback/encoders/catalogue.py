"""Every encoder that has a name: how it is built, and what its users must know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from mi_callback.encoders.protocol import Card, Encoder


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


_HUGGINGFACE = "mi_callback.encoders.huggingface:build_huggingface"


def _hub(model: str, card: Card, **options: Any) -> Entry:
    """A model of the Hugging Face hub; `model=` a folder in its place is taken too."""
    return Entry(
        _HUGGINGFACE,
        replace(card, source=f"https://huggingface.co/{model}"),
        {"model": model, **options},
        needs="its weights: local_files_only=False, or before that: hf download " + model,
    )


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
    "slices": Entry(
        "mi_callback.encoders.slices:build_slices",
        Card(
            licence="that of encoder=, by default of bundled",
            citation="that of encoder=",
            source="that of encoder=",
            modality="that of encoder=",
        ),
        dims=3,
    ),
    "pixels": Entry(
        "mi_callback.encoders.pixels:build_pixels",
        Card(licence="Apache-2.0", citation="none: block means", source="no weights", modality="any"),
    ),
    "mri_core": Entry(
        "mi_callback.encoders.mri_core:build_mri_core",
        Card(
            licence="Apache-2.0",
            citation='Dong et al., "MRI-CORE: A Foundation Model for Magnetic Resonance Imaging", arXiv 2506.12186',
            source="MRI_CORE_vitb.pth, from the drive link in the README of github.com/mazurowski-lab/mri_foundation",
            modality="MRI",
        ),
        needs="checkpoint='MRI_CORE_vitb.pth'",
    ),
    "module": Entry(
        "mi_callback.encoders.hooked:HookedEncoder",
        Card(licence="the network's", citation="the network's", source="the user's own", modality="the network's"),
        needs="network=…, layers={…}, size=…",
    ),
    "huggingface": Entry(
        _HUGGINGFACE,
        Card(
            licence="see the model's card",
            citation="see the model's card",
            source="the hub id or folder that model= names",
            modality="see the model's card",
        ),
        needs="model='HUB-ID', fetched before or with local_files_only=False, or a folder",
    ),
    "dinov2": _hub(
        "facebook/dinov2-base",
        Card(
            licence="Apache-2.0",
            citation="Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, "
            "arXiv 2304.07193 (2023)",
            modality="natural images",
        ),
    ),
    "dinov3": _hub(
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        Card(
            licence="DINOv3 License, to be accepted on the hub first",
            citation="Siméoni et al., DINOv3, arXiv 2508.10104 (2025)",
            modality="natural images",
            restricted=True,
        ),
    ),
    "rad_dino": _hub(
        "microsoft/rad-dino",
        Card(
            licence="MIT",
            citation="Pérez-García et al., Exploring scalable medical image encoders beyond text supervision, "
            "Nature Machine Intelligence (2025)",
            modality="chest X-ray",
        ),
    ),
    # Curia's own image processor brings each slice, unwindowed, to zero mean and unit variance.
    "curia": _hub(
        "raidium/curia",
        Card(
            licence="Research-only RAIL-M",
            citation="Dancette et al., Curia: A Multi-Modal Foundation Model for Radiology, arXiv 2509.06830 (2025)",
            modality="CT and MRI",
            restricted=True,
        ),
        standardise=True,
    ),
    "medsiglip": _hub(
        "google/medsiglip-448",
        Card(
            licence="Health AI Developer Foundations terms of use, to be accepted on the hub first",
            citation="Sellergren et al., MedGemma Technical Report, arXiv 2507.05201 (2025)",
            modality="chest X-ray, dermatology, ophthalmology, histopathology, CT and MRI slices; natural images",
            restricted=True,
        ),
    ),
    # Its folder has no preprocessor settings; these are the card's.
    "midnight": _hub(
        "kaiko-ai/midnight",
        Card(
            licence="MIT",
            citation="kaiko.ai, Training state-of-the-art pathology foundation models with orders of magnitude less "
            "data (2025)",
            modality="histopathology, H&E",
        ),
        size=224,
        mean=0.5,
        std=0.5,
    ),
    "phikon_v2": _hub(
        "owkin/phikon-v2",
        Card(
            licence="Owkin non-commercial licence",
            citation="Filiot et al., Phikon-v2, A large and public feature extractor for biomarker prediction, "
            "arXiv 2409.09173 (2024)",
            modality="histopathology, H&E",
            restricted=True,
        ),
    ),
    "monai_resnet": Entry(
        "mi_callback.encoders.monai:build_monai_resnet",
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
        "mi_callback.encoders.monai:build_medicalnet",
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
        "mi_callback.encoders.monai:build_monai_vit",
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
        "mi_callback.encoders.monai:build_swin_unetr",
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
        "mi_callback.encoders.monai:build_monai_bundle",
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
        "mi_callback.encoders.compiled:build_torchscript",
        Card(licence="see the file's authors", citation="the file's", source="the user's own"),
        needs="checkpoint='network.pt', size=…, trusted=True",
    ),
    "exported": Entry(
        "mi_callback.encoders.compiled:build_exported",
        Card(licence="see the file's authors", citation="the file's", source="the user's own"),
        needs="checkpoint='network.pt2', size=…, trusted=True",
    ),
    "sscd": Entry(
        "mi_callback.encoders.compiled:build_torchscript",
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
