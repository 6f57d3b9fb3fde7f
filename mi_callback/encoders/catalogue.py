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
    "mri_core": Entry(
        "mi_callback.encoders.mri_core:build_mri_core",
        Card(
            licence="Apache-2.0",
            citation='Dong et al., "MRI-CORE: A Foundation Model for Magnetic Resonance Imaging", arXiv 2506.12186',
            source="MRI_CORE_vitb.pth, from the drive link in the README of github.com/mazurowski-lab/mri_foundation",
            modality="MRI",
        ),
        needs="checkpoint=MRI_CORE_vitb.pth",
    ),
    "module": Entry("mi_callback.encoders.base:HookedEncoder", needs="network=…, layers={…}, size=…"),
}
"""Name → entry; `register` adds to it."""
