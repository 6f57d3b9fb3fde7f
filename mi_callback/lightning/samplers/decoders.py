"""MONAI: autoencoders as generators, by what their decoder makes of random latents or codes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.errors import SamplerError
from mi_callback.lightning.samplers.averages import averaged_copy
from mi_callback.lightning.samplers.found import FoundSampler, Setting, held, like, shape_of

KINDS = ("AutoencoderKL", "VQVAE", "VarAutoEncoder")


class DecoderSampler:
    """Decodes random latents with an `AutoencoderKL`, `VarAutoEncoder` (standard normal) or `VQVAE` (uniform codes).

    Args:
        autoencoder: Dotted name below the module; None to find it by its kind.
        shape: Of the latents, or of the map of codes, without the batch; that of a real image's when None.

    Example:
        >>> MemorizationCallback(sampler="decoder")  # doctest: +SKIP
    """

    def __init__(self, autoencoder: str | None = None, shape: Sequence[int] | None = None) -> None:
        self.autoencoder = autoencoder
        self.shape = None if shape is None else tuple(shape)

    def holds(self, module: nn.Module) -> bool:
        """Whether a module has such an autoencoder."""
        return held(module, self.autoencoder, "monai", *KINDS) is not None

    def bind(self, module: nn.Module, setting: Setting) -> FoundSampler:
        """How to draw images from this module; see `ReadySampler`."""
        found = held(module, self.autoencoder, "monai", *KINDS)
        if found is None:
            raise SamplerError(
                f"needed an autoencoder of MONAI ({', '.join(KINDS)}) in {type(module).__name__}; found none. "
                "Say where: DecoderSampler(autoencoder='…')."
            )
        averaged = averaged_copy(module, *found)
        name, network = averaged or found
        what = "codes drawn uniformly" if hasattr(network, "index_quantize") else "normal latents"
        return FoundSampler(
            partial(self._draw, network, setting),
            f"{type(module).__name__}.{name}, which decodes {what}",
            averaged is not None,
        )

    def _draw(self, network: Any, setting: Setting, n: int) -> Tensor:
        decoded: Tensor
        if hasattr(network, "index_quantize"):
            shape = self.shape or _shape(network.index_quantize, network, setting)
            codes = torch.randint(network.num_embeddings, (n, *shape), device=like(network)["device"])
            decoded = network.decode_samples(codes)
        elif hasattr(network, "decode_stage_2_outputs"):
            shape = self.shape or _shape(network.encode_stage_2_inputs, network, setting)
            decoded = network.decode_stage_2_outputs(torch.randn(n, *shape, **like(network)))
        else:
            shape = self.shape or (network.latent_size,)
            decoded = network.decode_forward(torch.randn(n, *shape, **like(network)))
        return decoded


def _shape(encode: Callable[[Tensor], Tensor], network: nn.Module, setting: Setting) -> tuple[int, ...]:
    return shape_of(encode, network, setting.image("DecoderSampler"))
