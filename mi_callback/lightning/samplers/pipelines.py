"""diffusers: pipelines, and networks with a scheduler."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.arguments import positive_integer
from mi_callback.errors import SamplerError
from mi_callback.lightning.samplers.averages import averaged_copy
from mi_callback.lightning.samplers.calls import all_parameters
from mi_callback.lightning.samplers.found import FoundSampler, Setting, held, like

PACKAGE = "diffusers"
NETWORKS = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "UNet3DConditionModel",
    "DiTTransformer2DModel",
    "Transformer2DModel",
)
AUTOENCODERS = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
COUNTS = ("batch_size", "num_images_per_prompt")


class DiffusersSampler:
    """Samples a pipeline of diffusers, or a network with a scheduler, and a VAE where the module holds one.

    Averaged copies are preferred. Schedulers are copied, so that training keeps its own time steps.

    Args:
        pipeline: Dotted name below the module; None to find it by its kind.
        network: The same, of the network that removes noise.
        scheduler: The same, of its scheduler.
        vae: The same, of what decodes latents.
        steps: Time steps of the sampling; 50 for a network, what the pipeline is made for when None.
        shape: Of the noise, without the batch, for a network that does not tell its `sample_size`.
        call: Further arguments of the pipeline: `{"prompt": "a knee", "guidance_scale": 3}`.

    Example:
        >>> MemorizationCallback(sampler=DiffusersSampler(steps=25))  # doctest: +SKIP
    """

    def __init__(
        self,
        pipeline: str | None = None,
        network: str | None = None,
        scheduler: str | None = None,
        vae: str | None = None,
        steps: int | None = None,
        shape: Sequence[int] | None = None,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline, self.network, self.scheduler, self.vae = pipeline, network, scheduler, vae
        self.steps = None if steps is None else positive_integer("steps", steps)
        self.shape = None if shape is None else tuple(shape)
        self.call = dict(call or {})

    def holds(self, module: nn.Module) -> bool:
        """Whether a module has a pipeline, or a network with a scheduler."""
        if held(module, self.pipeline, PACKAGE, "DiffusionPipeline") is not None:
            return True
        return self._network(module) is not None and self._scheduler(module) is not None

    def bind(self, module: nn.Module, setting: Setting) -> FoundSampler:
        """How to draw images from this module; see `ReadySampler`."""
        name = type(module).__name__
        network, scheduler = self._network(module), self._scheduler(module)
        averaged = None if network is None else averaged_copy(module, *network)
        if self.network is None and (found := held(module, self.pipeline, PACKAGE, "DiffusionPipeline")) is not None:
            pipeline = _on_the_device_of(module, _with_network(found[1], module))
            return FoundSampler(partial(self._of_pipeline, pipeline), f"{name}.{found[0]}")
        if network is None or scheduler is None:
            raise SamplerError(
                f"needed a pipeline of diffusers, or a network and a scheduler, in {name}; found "
                f"{'a scheduler alone' if scheduler else 'a network alone' if network else 'none'}. Say where: "
                "DiffusersSampler(network='…', scheduler='…')."
            )
        vae = held(module, self.vae, PACKAGE, *AUTOENCODERS)
        place, unet = averaged or network
        draw = partial(self._of_network, unet, scheduler[1], None if vae is None else vae[1], setting)
        steps = self.steps or 50
        return FoundSampler(draw, f"{name}.{place} with {scheduler[0]} in {steps} steps", averaged is not None)

    def _network(self, module: nn.Module) -> tuple[str, Any] | None:
        return held(module, self.network, PACKAGE, *NETWORKS)

    def _scheduler(self, module: nn.Module) -> tuple[str, Any] | None:
        return held(module, self.scheduler, PACKAGE, "SchedulerMixin")

    def _of_pipeline(self, pipeline: Any, n: int, condition: Any = None) -> Any:
        known = {each.name for each in all_parameters(pipeline.__call__)}
        options: dict[str, Any] = {"output_type": "np"} | self.call
        if self.steps is not None:
            options["num_inference_steps"] = self.steps
        if condition is not None:
            options |= _condition(known, condition)
        elif isinstance(options.get("prompt"), str):
            options["prompt"] = [options["prompt"]] * n
        elif "batch_size" in known:
            options["batch_size"] = n
        return pipeline(**options)

    def _of_network(
        self, network: Any, scheduler: Any, vae: Any, setting: Setting, n: int, condition: Any = None
    ) -> Any:
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(self.steps or 50)
        image = torch.randn(n, *self._shape(network, setting), **like(network)) * scheduler.init_noise_sigma
        options: dict[str, Any] = {} if condition is None else _network_condition(network, condition, image)
        for t in scheduler.timesteps:
            noise = network(scheduler.scale_model_input(image, t), t, **options).sample
            image = scheduler.step(noise, t, image).prev_sample
        if vae is not None:
            factor = getattr(vae.config, "scaling_factor", 1.0)
            image = vae.decode(image.to(**like(vae)) / factor).sample
        return image

    def _shape(self, network: Any, setting: Setting) -> tuple[int, ...]:
        if self.shape is not None:
            return self.shape
        side = network.config.sample_size
        if side is None:
            return tuple(setting.image("DiffusersSampler").shape)
        return (network.config.in_channels, *([side, side] if isinstance(side, int) else side))


def _condition(known: set[str], condition: Any) -> dict[str, Any]:
    """The argument of a pipeline that takes conditions."""
    names = ("prompt",) if not isinstance(condition, Tensor) else ("class_labels", "image", "mask_image")
    for name in names:
        if name in known:
            return {name: condition.tolist() if name == "class_labels" else condition}
    raise SamplerError(f"needed a pipeline that takes {' or '.join(names)}; it takes {sorted(known)}.")


def _network_condition(network: Any, condition: Any, image: Tensor) -> dict[str, Any]:
    if not isinstance(condition, Tensor):
        raise SamplerError("needed conditions as tensors for a network alone; texts came. Hold a pipeline instead.")
    if condition.ndim == 1 and not condition.is_floating_point():
        return {"class_labels": condition}
    return {"encoder_hidden_states": condition.to(image).view(len(condition), -1, condition.shape[-1])}


def _with_network(pipeline: Any, module: nn.Module) -> Any:
    """A copy of the pipeline without progress bars, with its scheduler copied and averaged networks where there are."""
    made = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and (found := averaged_copy(module, name, part)) is not None:
            made.__dict__[name] = found[1]
        elif name == "scheduler":
            made.__dict__[name] = copy.deepcopy(part)
    made.set_progress_bar_config(disable=True)
    return made


def _on_the_device_of(module: nn.Module, pipeline: Any) -> Any:
    """Pipelines that the module holds are no part of it, and did not move with it."""
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    device = like(module)["device"]
    return pipeline if all(like(part)["device"] == device for part in parts) else pipeline.to(device)
