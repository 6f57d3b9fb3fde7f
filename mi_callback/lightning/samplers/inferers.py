"""MONAI: diffusion inferers with their schedulers, in images or in latents, with or without a ControlNet."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.arguments import positive_integer
from mi_callback.errors import SamplerError
from mi_callback.lightning.samplers.averages import averaged_copy
from mi_callback.lightning.samplers.found import FoundSampler, Setting, held, like, shape_of

INFERERS = ("DiffusionInferer",)
NETWORKS = ("DiffusionModelUNet", "DiffusionModelUNetMaisi")
AUTOENCODERS = ("AutoencoderKL", "VQVAE")


class DiffusionSampler:
    """Samples what a `DiffusionInferer` of MONAI, or one of its kinds, samples.

    The module holds the inferer, the network, and where the inferer needs them an autoencoder and a ControlNet; an
    averaged copy of the network is preferred. The scheduler is copied, so that training keeps its own time steps.

    Args:
        inferer: Dotted name below the module; None to find it by its kind.
        network: The same, of the network that removes noise.
        autoencoder: The same, of what decodes latents.
        controlnet: The same, of what steers the network.
        steps: Time steps of the sampling; as the scheduler is set when None.
        shape: Of the noise, without the batch, `(c, h, w)`; that of real images, or of their latents, when None.
        mode: How a condition enters: `crossattn` as context, `concat` as further channels; None tells by its shape.
        guidance: Scale of classifier-free guidance; none when None.

    Example:
        >>> MemorizationCallback(sampler=DiffusionSampler(steps=50))  # doctest: +SKIP
    """

    def __init__(
        self,
        inferer: str | None = None,
        network: str | None = None,
        autoencoder: str | None = None,
        controlnet: str | None = None,
        steps: int | None = None,
        shape: Sequence[int] | None = None,
        mode: str | None = None,
        guidance: float | None = None,
    ) -> None:
        self.inferer, self.network, self.autoencoder, self.controlnet = inferer, network, autoencoder, controlnet
        self.steps = None if steps is None else positive_integer("steps", steps)
        self.shape = None if shape is None else tuple(shape)
        self.mode, self.guidance = mode, guidance

    def holds(self, module: nn.Module) -> bool:
        """Whether a module has what is needed."""
        return held(module, self.inferer, "monai", *INFERERS) is not None and self._network(module) is not None

    def bind(self, module: nn.Module, setting: Setting) -> FoundSampler:
        """How to draw images from this module; see `ReadySampler`."""
        found, network = held(module, self.inferer, "monai", *INFERERS), self._network(module)
        if found is None or network is None:
            raise SamplerError(
                f"needed a DiffusionInferer and its network in {type(module).__name__}; found "
                f"{'no inferer' if found is None else f'{found[0]}, but no network'}. Say where: "
                "DiffusionSampler(inferer='…', network='…')."
            )
        kinds = {kind.__name__ for kind in type(found[1]).__mro__}
        models: dict[str, Any] = {}
        if kinds & {"LatentDiffusionInferer", "ControlNetLatentDiffusionInferer"}:
            models["autoencoder_model"] = self._part(module, self.autoencoder, "an autoencoder", *AUTOENCODERS)
        if "ControlNetDiffusionInferer" in kinds:
            models["controlnet"] = self._part(module, self.controlnet, "a ControlNet", "ControlNet")
        averaged = averaged_copy(module, *network)
        name, unet = averaged or network
        draw = partial(self._draw, found[1], unet, models, setting)
        return FoundSampler(
            draw, f"{type(module).__name__}.{found[0]} with {name}{self._in_steps(found[1])}", averaged is not None
        )

    def _network(self, module: nn.Module) -> tuple[str, Any] | None:
        return held(module, self.network, "monai", *NETWORKS, "SPADEDiffusionModelUNet")

    def _part(self, module: nn.Module, asked: str | None, what: str, *kinds: str) -> nn.Module:
        found = held(module, asked, "monai", *kinds)
        if found is None:
            raise SamplerError(f"needed {what} beside the inferer of {type(module).__name__}; found none.")
        averaged = averaged_copy(module, *found)
        part: nn.Module = (averaged or found)[1]
        return part

    def _in_steps(self, inferer: Any) -> str:
        return f" in {self._steps(inferer.scheduler) or len(inferer.scheduler.timesteps)} steps"

    def _steps(self, scheduler: Any) -> int | None:
        """How many to set; None where the scheduler has its time steps."""
        own: int | None = None if hasattr(scheduler, "timesteps") else scheduler.num_train_timesteps
        return self.steps or own

    def _draw(
        self, inferer: Any, network: Any, models: dict[str, Any], setting: Setting, n: int, condition: Any = None
    ) -> Tensor:
        scheduler = copy.deepcopy(inferer.scheduler)
        if (steps := self._steps(scheduler)) is not None:
            scheduler.set_timesteps(steps)
        noise = torch.randn(n, *self._shape(inferer, network, models, setting), **like(network))
        network, conditions = self._conditioned(network, models, noise, condition)
        drawn: Tensor = inferer.sample(
            input_noise=noise, diffusion_model=network, scheduler=scheduler, verbose=False, **models, **conditions
        )
        return drawn

    def _shape(self, inferer: Any, network: Any, models: dict[str, Any], setting: Setting) -> tuple[int, ...]:
        if self.shape is not None:
            return self.shape
        image = setting.image("DiffusionSampler")
        autoencoder = models.get("autoencoder_model")
        if autoencoder is None:
            return tuple(image.shape)
        latent = shape_of(autoencoder.encode_stage_2_inputs, autoencoder, image)
        return (latent[0], *(inferer.ldm_latent_shape or latent[1:]))

    def _conditioned(
        self, network: Any, models: dict[str, Any], noise: Tensor, condition: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The network, and what the inferer is told, so that images are drawn for a condition."""
        options: dict[str, Any] = {} if self.guidance is None else {"cfg": self.guidance}
        if condition is None:
            return network, options
        if not isinstance(condition, Tensor):
            raise SamplerError(
                f"needed conditions as tensors for a network of MONAI; {type(condition).__name__} came. Encode them in "
                "the data set, or by condition_key=lambda batch: …."
            )
        if "controlnet" in models:
            return network, options | {"cn_cond": condition.to(noise)}
        if hasattr(network, "label_nc"):  # a network that is steered by label maps
            return network, options | {"seg": condition.to(noise)}
        if getattr(network, "num_class_embeds", None) is not None:
            return partial(network, class_labels=condition.long().flatten()), options
        mode = self.mode or ("concat" if condition.ndim == noise.ndim else "crossattn")
        condition = condition.to(noise)
        if mode == "crossattn" and condition.ndim < 3:
            condition = condition.view(len(condition), 1, -1)
        return network, options | {"conditioning": condition, "mode": mode}
