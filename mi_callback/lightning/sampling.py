"""A LightningModule → generated images, without leaving a trace in it."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mi_callback.errors import DataError, SamplerError
from mi_callback.images.preprocessing import check_images
from mi_callback.lightning.drawn_images import as_images

METHODS = ("sample", "sample_images", "generate")
AVERAGED = ("ema_model", "model_ema", "ema", "ema_generator", "generator_ema", "ema_net", "net_ema", "ema_unet")
PARTS = (*AVERAGED, "generator", "model", "diffusion", "net")
"""Where a module may keep what it samples from, averaged weights first: they are the ones that are released."""

LATENT = "latent_dim"

NUMBERS = ("n", "num", "count", "number", "batch_size", "n_samples", "num_samples", "n_images", "num_images", "bs", "k")
"""Usual names of the number of images."""

OTHERS = frozenset(
    """
    z latent latents noise x x_t x0 batch y label labels c cond condition conditions conditioning context prompt prompts
    mask masks image images img embedding embeddings shape t timesteps
    """.split()  # noqa: SIM905  a list of words
)
"""Names of first parameters that are no number of images."""


@dataclass(frozen=True)
class FoundSampler:
    """How to draw n images: a function of n, and its name for people to read."""

    function: Callable[[int], Any]
    name: str

    def __call__(self, n: int) -> Any:
        """Images in any form that `draw` takes.

        Raises:
            SamplerError: If the function cannot be called like this, or ends as an exhausted iterator does.
        """
        try:
            return self.function(n)
        except (StopIteration, TypeError, AttributeError) as error:
            raise SamplerError(
                f"needed {n} images from {self.name}; it raised {type(error).__name__}: {error}. A sampler is a "
                "function of the module and the number of images, which can be called again and again."
            ) from error


def find_sampler(module: nn.Module, sampler: str | Callable[..., Any] | None = None) -> FoundSampler:
    """How to draw n images from `module`: a function of n.

    Args:
        module: The LightningModule.
        sampler: A callable `(module, n)` or `(n)`; a dotted name below the module (`"generator.sample"`); or None:
            then the first that exists of `module.sample|sample_images|generate`, the same methods of its `PARTS`, of
            which averaged weights come first, and a `forward(z)` of the module or of one of these parts that has
            `latent_dim` (z standard normal, `(n, latent_dim)`).

    Raises:
        SamplerError: If nothing of this exists or the callable takes no number, with the one-line fix.
    """
    if isinstance(sampler, str):
        return _named(module, sampler)
    if sampler is not None:
        return FoundSampler(_with_count(sampler, module, "sampler"), f"the function {_name(sampler)}")
    parts = _parts(module)
    of_others = []
    for prefix, part in parts:
        for method in METHODS:
            found = getattr(part, method, None)
            if not callable(found):
                continue
            if _takes_count(found) and _first(found) not in OTHERS:
                return FoundSampler(found, f"{type(module).__name__}.{prefix}{method}")
            of_others.append(f"{prefix}{method}{_parameters(found)}")
    for prefix, part in parts:
        if isinstance(part, nn.Module) and isinstance(dim := getattr(part, LATENT, None), int):
            return FoundSampler(
                partial(_from_latent, part, dim), f"{type(module).__name__}.{prefix}forward(z) with {dim} latents"
            )
    raise SamplerError(
        f"needed a way to draw images from {type(module).__name__}; looked for the methods {', '.join(METHODS)}, "
        f"taking the number of images, on the module and on its {', '.join(PARTS)}, and for forward(z) with {LATENT}; "
        f"found {_what_else(of_others)}. Say how: MemorizationCallback(sampler=lambda module, n: module.my_method(n))."
    )


def draw(
    module: nn.Module,
    sampler: Callable[[int], Any],
    n: int,
    batch_size: int,
    seed: int,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Draw n images or volumes, float32 on the CPU, `(n, c, *spatial)`: in eval mode, no gradient, with its own seed.

    Modes of all submodules and the global random state of Python, NumPy, torch and CUDA are put back, also when
    sampling raises. A `torch.Generator` of the module's own is not among them: a sampler that draws from one goes on
    where it was.

    Args:
        context: Makes the context to sample in, e.g. the `forward_context` of the precision plugin.

    Raises:
        SamplerError: If the sampler returns something that is no tensor, or another number of images than asked.
        DataError: If the images are NaN, constant or of the wrong shape.
    """
    images: list[Tensor] = []
    # Validation may run in inference mode, whose tensors cannot be used further.
    with rng_kept(), evaluating(module), torch.inference_mode(False), torch.no_grad(), context():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        for start in range(0, n, batch_size):
            asked = min(batch_size, n - start)
            images.append(_checked(sampler(asked), asked, start))
        sizes = {tuple(batch.shape[1:]) for batch in images}
        if len(sizes) > 1:
            raise SamplerError(f"needed generated images of one shape; the sampler returned {sorted(sizes)}.")
        return torch.cat(images)


@contextmanager
def rng_kept() -> Iterator[None]:
    """Lightning's `isolate_rng`, which alone does not put the states back when something raises."""
    from lightning.pytorch.utilities.seed import isolate_rng

    raised: BaseException | None = None
    with isolate_rng():
        try:
            yield
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised


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


def _checked(images: Any, asked: int, start: int) -> Tensor:
    images = as_images(images)
    if images.ndim not in (4, 5) or len(images) != asked:
        raise SamplerError(
            f"needed {asked} images, shape ({asked}, 1, h, w), or volumes ({asked}, 1, d, h, w), from the sampler; a "
            f"tensor of shape {tuple(images.shape)} came."
        )
    try:
        return check_images(images, images.shape[1], images.ndim - 2).cpu()
    except DataError as error:
        raise DataError(f"generated images {start} to {start + asked - 1}: {error}") from error


def _named(module: nn.Module, name: str) -> FoundSampler:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise SamplerError(f"needed {type(module).__name__}.{name}; {type(found).__name__} has no {part!r}.")
        found = getattr(found, part)
    # A bound method has its module already: what it needs beside the number must come from the user.
    function = _with_count(found, None if inspect.ismethod(found) else module, name)
    if inspect.ismethod(found) and _first(found) in OTHERS:
        raise _not_of_a_number(name, found)
    return FoundSampler(function, f"{type(module).__name__}.{name}")


def _with_count(function: Any, module: nn.Module | None, name: str) -> Callable[[int], Any]:
    """`function` as a function of n alone; the module goes first where it takes two arguments."""
    if not callable(function):
        raise SamplerError(f"needed a callable {name}; {type(function).__name__} came.")
    if module is not None and _required(function) == 2 and _first(function) not in NUMBERS:
        return partial(function, module)
    if not _takes_count(function):
        raise _not_of_a_number(name, function)
    return function


def _not_of_a_number(name: str, function: Callable[..., Any]) -> SamplerError:
    needs = [each for each in _positional(function) if each.default is each.empty]
    more = [each.name for each in needs if each.name not in NUMBERS]
    hint = f" It needs {', '.join(more)}, too" if more and len(needs) <= 2 else ""
    call = ", ".join("n" if each.name in NUMBERS else f"{each.name}=…" for each in needs)
    fix = f": sampler=lambda module, n: module.{name}({call})." if hint and name != "sampler" else "." if hint else ""
    return SamplerError(f"needed {name}(module, n) or {name}(n); its signature is {_signature(function)}.{hint}{fix}")


def _parts(module: nn.Module) -> list[tuple[str, Any]]:
    """The module, its parts, and what a part that averages weights holds, each with its dotted prefix."""
    found: list[tuple[str, Any]] = [("", module)]
    for name in PARTS:
        if (part := getattr(module, name, None)) is not None:
            found.append((f"{name}.", part))
            if name in AVERAGED and isinstance(inner := getattr(part, "module", None), nn.Module):
                found.append((f"{name}.module.", inner))
    return found


def _what_else(methods: list[str]) -> str:
    return f"only {', '.join(methods)}, which need more or something else than a number" if methods else "none"


def _takes_count(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return bool(positional) and _required(function) <= 1 and not keyword_only


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _required(function: Callable[..., Any]) -> int:
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty for p in _positional(function))


def _first(function: Callable[..., Any]) -> str | None:
    """Name of the first parameter."""
    return next((p.name for p in _positional(function)), None)


def _parameters(function: Callable[..., Any]) -> str:
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    needed = [f"*, {p.name}" for p in keywords if p.default is p.empty]
    return f"({', '.join([*(p.name for p in _positional(function)), *needed])})"


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _signature(function: Callable[..., Any]) -> str:
    return f"{_name(function)}{inspect.signature(function)}"


def _from_latent(part: nn.Module, dim: int, n: int) -> Any:
    like = next(part.parameters(), torch.empty(0))
    return part(torch.randn(n, dim, device=like.device, dtype=like.dtype))
