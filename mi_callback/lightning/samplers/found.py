"""What every way to draw images is in the end: a function of their number, and a name for people to read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mi_callback.errors import SamplerError

AVERAGED = ("ema_model", "model_ema", "ema", "ema_generator", "generator_ema", "ema_net", "net_ema", "ema_unet")
PARTS = (*AVERAGED, "generator", "model", "diffusion", "net")
"""Where a module may keep what it samples from, averaged weights first: they are the ones that are released."""


class NoMoreImages(Exception):
    """A sampler has no more images to give: what it gave so far is scored."""


@dataclass(frozen=True)
class FoundSampler:
    """How to draw n images.

    Attributes:
        function: Of n; of n and n conditions, where there are any.
        name: For people to read.
        averaged: Whether it draws from averaged weights.
        weights: Makes the context in which averaged weights are in place of the module's own.
        late: Whether images are there only after the validation batches were run.
        fewer: Whether there may be fewer images than asked for.
    """

    function: Callable[..., Any]
    name: str
    averaged: bool = False
    weights: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext, repr=False)
    late: bool = False
    fewer: bool = False

    def __call__(self, n: int, condition: Any = None) -> Any:
        """Images in any form that `draw` takes.

        Raises:
            SamplerError: If the function cannot be called like this, or ends as an exhausted iterator does.
        """
        try:
            return self.function(n) if condition is None else self.function(n, condition)
        except (StopIteration, TypeError, AttributeError) as error:
            raise SamplerError(
                f"needed {n} images from {self.name}; it raised {type(error).__name__}: {error}. A sampler is a "
                "function of the module and the number of images, which can be called again and again."
            ) from error


@dataclass(frozen=True)
class Setting:
    """What a ready sampler may need beside the module.

    Attributes:
        example: Makes a real image `(c, h, w)` or volume `(c, d, h, w)`, which tells the shape of what is drawn.
        batches: Makes the validation batches, on the device of the module.
        conditional: Whether conditions will be passed.
    """

    example: Callable[[], Tensor] | None = None
    batches: Callable[[], Iterable[Any]] | None = None
    conditional: bool = False

    def image(self, name: str) -> Tensor:
        """A real image.

        Raises:
            SamplerError: Where none is at hand.
        """
        if self.example is None:
            raise SamplerError(f"needed a real image to tell the shape of what {name} draws; pass shape=(1, h, w).")
        return self.example()


@runtime_checkable
class ReadySampler(Protocol):
    """An object with options that knows how a kind of generator is sampled."""

    def bind(self, module: nn.Module, setting: Setting) -> FoundSampler:
        """How to draw images from this module.

        Raises:
            SamplerError: If the module does not hold what is needed.
        """


def is_a(value: Any, package: str, *names: str) -> bool:
    """Whether a value is of one of these classes of a package, which need not be imported to tell."""
    return any(kind.__name__ in names and kind.__module__.split(".")[0] == package for kind in type(value).__mro__)


def holdings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module, and each of its parts that hold several things, has under public names, by dotted name."""
    places: list[tuple[str, Any]] = [("", module)]
    places += [(f"{name}.", getattr(module, name)) for name in PARTS if getattr(module, name, None) is not None]
    for prefix, place in places:
        known = {**getattr(place, "__dict__", {}), **getattr(place, "_modules", {})}
        yield from ((f"{prefix}{name}", value) for name, value in known.items() if not name.startswith("_"))


def held(module: nn.Module, asked: str | None, package: str, *names: str) -> tuple[str, Any] | None:
    """The dotted name under which a module holds an object of one of these classes, and the object.

    Args:
        module: Where to look.
        asked: The name that the user gave; None to look for it.
        package, names: As for `is_a`.

    Raises:
        SamplerError: If there is nothing under the name that the user gave.
    """
    if asked is not None:
        return asked, attribute(module, asked)
    return next(((name, value) for name, value in holdings(module) if is_a(value, package, *names)), None)


def attribute(module: nn.Module, name: str) -> Any:
    """What is under a dotted name.

    Raises:
        SamplerError: If a part of it is missing.
    """
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise SamplerError(f"needed {type(module).__name__}.{name}; {type(found).__name__} has no {part!r}.")
        found = getattr(found, part)
    return found


def like(network: nn.Module) -> dict[str, Any]:
    """Device and precision of a network's weights, for latents."""
    weight = next((each for each in network.parameters() if each.is_floating_point()), torch.empty(0))
    return {"device": weight.device, "dtype": weight.dtype}


def shape_of(encode: Callable[[Tensor], Tensor], network: nn.Module, image: Tensor) -> tuple[int, ...]:
    """The shape, without the batch, of what an encoder makes of a real image; no random number is spent on it."""
    kind = like(network)
    with torch.random.fork_rng(devices=[kind["device"]] if kind["device"].type == "cuda" else []):
        return tuple(encode(image[None].to(**kind)).shape[1:])
