"""Ready samplers for generators of MONAI and diffusers, found by what a module holds, or asked for by name.

| name | sampler |
|---|---|
| `monai` | `DiffusionSampler` |
| `decoder` | `DecoderSampler` |
| `diffusers` | `DiffusersSampler` |
| `validation_step`, `predict_step` | `StepSampler` |
"""

from mi_callback.lightning.samplers.bundles import BundleSampler
from mi_callback.lightning.samplers.decoders import DecoderSampler
from mi_callback.lightning.samplers.found import FoundSampler, ReadySampler, Setting
from mi_callback.lightning.samplers.inferers import DiffusionSampler
from mi_callback.lightning.samplers.pipelines import DiffusersSampler
from mi_callback.lightning.samplers.steps import STEPS, StepSampler

NAMES = ("monai", "decoder", "diffusers", *STEPS)
"""Samplers that can be asked for by name."""


def named_sampler(name: str) -> ReadySampler:
    """The ready sampler of this name, with its default options."""
    if name in STEPS:
        return StepSampler(name)
    made: ReadySampler = {"monai": DiffusionSampler, "decoder": DecoderSampler, "diffusers": DiffusersSampler}[name]()
    return made


__all__ = [
    "NAMES",
    "BundleSampler",
    "DecoderSampler",
    "DiffusersSampler",
    "DiffusionSampler",
    "FoundSampler",
    "ReadySampler",
    "Setting",
    "StepSampler",
    "named_sampler",
]
