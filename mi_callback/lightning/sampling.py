"""A LightningModule → generated images, without leaving a trace in it."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mi_callback.errors import DataError, SamplerError
from mi_callback.images.preprocessing import check_images

Sampler = Callable[[int], Any]

METHODS = ("sample", "sample_images", "generate")
PARTS = ("generator", "model", "diffusion", "ema_model", "net")
LATENT = "latent_dim"


def find_sampler(module: nn.Module, sampler: str | Callable[..., Any] | None = None) -> Sampler:
    """How to draw n images from `module`: a function of n.

    Args:
        module: The LightningModule.
        sampler: A callable `(module, n)` or `(n)`; a dotted name below the module (`"generator.sample"`); or None:
            then the first that exists of `module.sample|sample_images|generate`, the same methods of
            `module.generator|model|diffusion|ema_model|net`, and a `forward(z)` of the module or of one of these
            parts that has `latent_dim` (z standard normal, `(n, latent_dim)`).

    Raises:
        SamplerError: If nothing of this exists or the callable takes no number, with the one-line fix.
    """
    if isinstance(sampler, str):
        return _named(module, sampler)
    if sampler is not None:
        return _with_count(sampler, module, "sampler")
    parts = [("", module)]
    parts += [(f"{name}.", part) for name in PARTS if (part := getattr(module, name, None)) is not None]
    for prefix, part in parts:
        for method in METHODS:
            found = getattr(part, method, None)
            if callable(found) and _takes_count(found):
                return _with_count(found, None, prefix + method)
    for _, part in parts:
        if isinstance(part, nn.Module) and isinstance(dim := getattr(part, LATENT, None), int):
            return partial(_from_latent, part, dim)
    raise SamplerError(
        f"needed a way to draw images from {type(module).__name__}; looked for the methods {', '.join(METHODS)}, "
        f"taking the number of images, on the module and on its {', '.join(PARTS)}, and for forward(z) with {LATENT}; "
        "found none. Say how: MemorizationCallback(sampler=lambda module, n: module.my_method(n))."
    )


def draw(
    module: nn.Module,
    sampler: Sampler,
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
    if not isinstance(images, Tensor):
        raise SamplerError(
            f"needed a tensor (n, 1, h, w), or (n, 1, d, h, w), from the sampler; {type(images).__name__} came. Wrap "
            "it: sampler=lambda module, n: torch.stack(…)."
        )
    if images.ndim not in (4, 5) or len(images) != asked:
        raise SamplerError(
            f"needed {asked} images, shape ({asked}, 1, h, w), or volumes ({asked}, 1, d, h, w), from the sampler; a "
            f"tensor of shape {tuple(images.shape)} came."
        )
    try:
        return check_images(images, images.shape[1], images.ndim - 2).cpu()
    except DataError as error:
        raise DataError(f"generated images {start} to {start + asked - 1}: {error}") from error


def _named(module: nn.Module, name: str) -> Sampler:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise SamplerError(f"needed {type(module).__name__}.{name}; {type(found).__name__} has no {part!r}.")
        found = getattr(found, part)
    return _with_count(found, module, name)


def _with_count(function: Any, module: nn.Module | None, name: str) -> Sampler:
    """`function` as a function of n alone; the module goes first where it takes two arguments."""
    if not callable(function):
        raise SamplerError(f"needed a callable {name}; {type(function).__name__} came.")
    required = _required(function)
    if module is not None and required == 2:
        return partial(function, module)
    if not _takes_count(function):
        raise SamplerError(f"needed {name}(module, n) or {name}(n); its signature is {_signature(function)}.")
    return function


def _takes_count(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return bool(positional) and _required(function) <= 1 and not keyword_only


def _required(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _signature(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', type(function).__name__)}{inspect.signature(function)}"


def _from_latent(part: nn.Module, dim: int, n: int) -> Any:
    like = next(part.parameters(), torch.empty(0))
    return part(torch.randn(n, dim, device=like.device, dtype=like.dtype))
