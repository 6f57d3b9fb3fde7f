"""A LightningModule → generated images, without leaving a trace in it."""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mi_callback.errors import DataError, SamplerError
from mi_callback.images.preprocessing import check_images
from mi_callback.lightning.drawn_images import as_images
from mi_callback.lightning.randomness import rng_kept
from mi_callback.lightning.samplers import (
    NAMES,
    DecoderSampler,
    DiffusersSampler,
    DiffusionSampler,
    FoundSampler,
    ReadySampler,
    Setting,
    inferers,
    named_sampler,
    pipelines,
)
from mi_callback.lightning.samplers.averages import averaged_weights
from mi_callback.lightning.samplers.calls import (
    OTHERS,
    first,
    name_of,
    not_of_a_number,
    parameters_in_words,
    takes_condition,
    takes_count,
    with_condition,
    with_count,
)
from mi_callback.lightning.samplers.conditions import Conditions
from mi_callback.lightning.samplers.found import AVERAGED, PARTS, NoMoreImages, attribute, held, like
from mi_callback.lightning.time_limit import TimeLimit, TimeUp

METHODS = ("sample", "sample_images", "generate")

LATENT = "latent_dim"

APART = 0x9E3779B97F4A7C15
"""Between the seeds of batches: 2⁶⁴ divided by the golden ratio, so that near seeds of users share none."""

READY = (DiffusionSampler, DiffusersSampler)
"""Kinds of generators that are known by what a module holds."""


def find_sampler(
    module: nn.Module, sampler: str | Callable[..., Any] | ReadySampler | None = None, setting: Setting | None = None
) -> FoundSampler:
    """How to draw n images from `module`: a function of n, and of n conditions where the setting is conditional.

    Args:
        module: The LightningModule.
        sampler: A callable `(module, n)` or `(n)`, and with conditions `(module, n, condition)` or `(n, condition)`; an
            object of `mi_callback.lightning.samplers`, or the name of one; a dotted name below the module
            (`"generator.sample"`); or None: then the first that exists of `module.sample|sample_images|generate`, the
            same methods of its `PARTS`, of which averaged weights come first, a diffusion model of MONAI or diffusers,
            a `decode(z)` or `forward(z)` of the module or of one of these parts that has `latent_dim` (z standard
            normal, `(n, latent_dim)`), and an autoencoder of MONAI.
        setting: What ready samplers need beside the module.

    Raises:
        SamplerError: If nothing of this exists or the callable takes no number, with the one-line fix.
    """
    setting = setting or Setting()
    found = _asked_for(module, sampler, setting) if sampler is not None else _of_the_module(module, setting)
    # What was made before was made with the weights that the module had then.
    if not (found.averaged or found.late) and (shadow := averaged_weights(module)) is not None:
        found = replace(found, averaged=True, weights=shadow[1], name=f"{found.name} with the weights of {shadow[0]}")
    return found


def _asked_for(module: nn.Module, sampler: Any, setting: Setting) -> FoundSampler:
    if isinstance(sampler, str) and sampler in NAMES:
        sampler = named_sampler(sampler)
    if isinstance(sampler, ReadySampler):
        return sampler.bind(module, setting)
    if isinstance(sampler, str):
        return _named(module, sampler, setting)
    fit = with_condition if setting.conditional else with_count
    return FoundSampler(fit(sampler, module, "sampler"), f"the function {name_of(sampler)}")


def _of_the_module(module: nn.Module, setting: Setting) -> FoundSampler:
    parts = _parts(module)
    of_others: list[str] = []
    found = _method(module, parts, setting, of_others)
    if found is None:
        ready = next((one for kind in READY if (one := kind()).holds(module)), None)
        found = None if ready is None else ready.bind(module, setting)
    if found is None and not setting.conditional:
        found = _latents(module, parts)
        # Beside a diffusion network an autoencoder is a part of the generator, not the generator.
        if found is None and not _holds_diffusion(module) and (decoder := DecoderSampler()).holds(module):
            found = decoder.bind(module, setting)
    if found is not None:
        return found
    raise SamplerError(
        f"needed a way to draw images from {type(module).__name__}; looked for the methods {', '.join(METHODS)}, "
        f"taking the number of images{' and a condition' if setting.conditional else ''}, on the module and on its "
        f"{', '.join(PARTS)}, for diffusion models and autoencoders of MONAI and diffusers, and for forward(z) with "
        f"{LATENT}; found {_what_else(of_others)}. Say how: "
        "MemorizationCallback(sampler=lambda module, n: module.my_method(n))."
    )


def _method(
    module: nn.Module, parts: list[tuple[str, Any]], setting: Setting, of_others: list[str]
) -> FoundSampler | None:
    """A method that draws; those that need something else go into `of_others`."""
    for prefix, part in parts:
        for method in METHODS:
            found = getattr(part, method, None)
            if not callable(found):
                continue
            averaged, name = prefix.split(".")[0] in AVERAGED, f"{type(module).__name__}.{prefix}{method}"
            if setting.conditional and takes_condition(found):
                return FoundSampler(with_condition(found, None, name), name, averaged)
            if not setting.conditional and takes_count(found) and first(found) not in OTHERS:
                return FoundSampler(found, name, averaged)
            of_others.append(f"{prefix}{method}{parameters_in_words(found)}")
    return None


def _holds_diffusion(module: nn.Module) -> bool:
    """Whether a module has a network of MONAI or diffusers that removes noise."""
    kinds = (("monai", inferers.NETWORKS), (pipelines.PACKAGE, pipelines.NETWORKS))
    return any(held(module, None, package, *names) is not None for package, names in kinds)


def _latents(module: nn.Module, parts: list[tuple[str, Any]]) -> FoundSampler | None:
    for prefix, part in parts:
        if isinstance(part, nn.Module) and isinstance(dim := getattr(part, LATENT, None), int):
            decode: Any = getattr(part, "decode", None)
            method, function = ("decode", decode) if callable(decode) else ("forward", part.__call__)
            name = f"{type(module).__name__}.{prefix}{method}(z) with {dim} latents"
            return FoundSampler(partial(_from_latent, part, function, dim), name, prefix.split(".")[0] in AVERAGED)
    return None


def draw(
    module: nn.Module,
    sampler: Callable[..., Any],
    n: int,
    batch_size: int,
    seed: int,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    conditions: Conditions | None = None,
    limit: TimeLimit | None = None,
) -> Tensor:
    """As `draw_batches`: n images or volumes `(n, c, *spatial)`."""
    batches = range(-(-n // batch_size))
    try:
        return together(draw_batches(module, sampler, n, batch_size, seed, batches, context, conditions, limit))
    except NoMoreImages as reason:
        raise SamplerError(f"needed samples; {reason}.") from None


def together(batches: Sequence[Tensor]) -> Tensor:
    """Images of batches.

    Raises:
        SamplerError: If they have several shapes.
    """
    sizes = {tuple(batch.shape[1:]) for batch in batches}
    if len(sizes) > 1:
        raise SamplerError(f"needed generated images of one shape; the sampler returned {sorted(sizes)}.")
    return torch.cat(list(batches))


def draw_batches(
    module: nn.Module,
    sampler: Callable[..., Any],
    n: int,
    batch_size: int,
    seed: int,
    batches: Iterable[int],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    conditions: Conditions | None = None,
    limit: TimeLimit | None = None,
) -> list[Tensor]:
    """Draw some of the batches of n images, float32 on the CPU: in eval mode, no gradient, each with its own seed.

    A batch is the same whichever others are drawn before it, so that ranks can take turns. Modes of all submodules and
    the global random state of Python, NumPy, torch and CUDA are put back, also when sampling raises. A
    `torch.Generator` of the module's own is not among them: a sampler that draws from one goes on where it was. Fewer
    images come where the sampler has no more, or time is up.

    Args:
        batches: Their numbers; one beyond the last is as large as the first.
        context: Makes the context to sample in, e.g. the `forward_context` of the precision plugin.
        conditions: What images are drawn for; the sampler gets those of its batch.
        limit: Of the time.

    Raises:
        SamplerError: If the sampler returns something that is no tensor, or another number of images than asked.
        DataError: If the images are NaN, constant or of the wrong shape.
        TimeUp: If time was up before the first batch was there.
        NoMoreImages: If the sampler had none at all.
    """
    images: list[Tensor] = []
    limit = limit or TimeLimit(None)
    weights = getattr(sampler, "weights", nullcontext)
    # Validation may run in inference mode, whose tensors cannot be used further.
    with rng_kept(), evaluating(module), torch.inference_mode(False), torch.no_grad(), weights(), context():
        device = like(module)["device"]
        for number in batches:
            _seed((seed + number * APART) % 2**63)
            start = number * batch_size
            asked = min(batch_size, n - start if start < n else n)
            given = () if conditions is None else (conditions.part(start, asked, device),)
            try:
                with limit.sampling(start):
                    drawn = sampler(asked, *given)
            except (NoMoreImages, TimeUp) as reason:
                if not images:
                    raise reason
                break
            images.append(_checked(drawn, asked, start, getattr(sampler, "fewer", False)))
        return images


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _checked(images: Any, asked: int, start: int, fewer: bool) -> Tensor:
    images = as_images(images)
    if images.ndim not in (4, 5) or (len(images) != asked and not (fewer and 0 < len(images) < asked)):
        raise SamplerError(
            f"needed {asked} images, shape ({asked}, 1, h, w), or volumes ({asked}, 1, d, h, w), from the sampler; a "
            f"tensor of shape {tuple(images.shape)} came."
        )
    try:
        return check_images(images, images.shape[1], images.ndim - 2).cpu()
    except DataError as error:
        raise DataError(f"generated images {start} to {start + asked - 1}: {error}") from error


def _named(module: nn.Module, name: str, setting: Setting) -> FoundSampler:
    found, whole = attribute(module, name), f"{type(module).__name__}.{name}"
    averaged = any(part in AVERAGED for part in name.split("."))
    # A bound method has its module already: what it needs beside the number must come from the user.
    bound = inspect.ismethod(found)
    if setting.conditional:
        return FoundSampler(with_condition(found, None if bound else module, name), whole, averaged)
    function = with_count(found, None if bound else module, name)
    if bound and first(found) in OTHERS:
        raise not_of_a_number(name, found)
    return FoundSampler(function, whole, averaged)


def _parts(module: nn.Module) -> list[tuple[str, Any]]:
    """The module, its parts, and what a part that averages weights holds, each with its dotted prefix."""
    found: list[tuple[str, Any]] = [("", module)]
    for name in PARTS:
        if (part := getattr(module, name, None)) is not None:
            found.append((f"{name}.", part))
            for wrapped in ("module", "ema_model") if name in AVERAGED else ():
                if isinstance(inner := getattr(part, wrapped, None), nn.Module):
                    found.append((f"{name}.{wrapped}.", inner))
    return found


def _what_else(methods: list[str]) -> str:
    return f"only {', '.join(methods)}, which need more or something else than a number" if methods else "none"


def _from_latent(part: nn.Module, function: Callable[..., Any], dim: int, n: int) -> Any:
    return function(torch.randn(n, dim, **like(part)))
