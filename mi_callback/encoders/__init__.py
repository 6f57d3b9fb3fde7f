"""Encoders by name. One family a file; each builder returns something that satisfies `Encoder`."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mi_callback.encoders.base import Encoder, HookedEncoder, Layer
from mi_callback.errors import EncoderError

__all__ = ["Encoder", "HookedEncoder", "Layer", "available", "build_encoder", "register"]

_BUILDERS: dict[str, str | Callable[..., Encoder]] = {
    "bundled": "mi_callback.encoders.bundled:build_bundled",
    "module": "mi_callback.encoders.base:HookedEncoder",
    "pixels": "mi_callback.encoders.pixels:build_pixels",
}


def available() -> list[str]:
    """Names that `build_encoder` knows."""
    return sorted(_BUILDERS)


def register(name: str, builder: Callable[..., Encoder]) -> None:
    """Make `build_encoder(name, **options)` call `builder(**options)`."""
    _BUILDERS[name] = builder


def build_encoder(name: str | Encoder = "bundled", **options: Any) -> Encoder:
    """Any registered encoder by name; an encoder that is already one is returned as it is.

    Args:
        name: One of `available()`, or an object that satisfies `Encoder`.
        options: Passed to the builder, e.g. `build_encoder("module", network=net, layers={"layer3": "BCHW"}, size=96)`.

    Raises:
        EncoderError: If the name is unknown, or the object lacks what the protocol asks for.
    """
    if not isinstance(name, str):
        if isinstance(name, Encoder):
            return name
        raise EncoderError(
            f"needed an encoder's name out of {available()} or a module with declared layers; {type(name).__name__} "
            "came. Wrap it: build_encoder('module', network=net, layers={'layer3': 'BCHW'}, size=224)."
        )
    if name not in _BUILDERS:
        raise EncoderError(f"needed an encoder out of {available()}; {name!r} came.")
    builder = _BUILDERS[name]
    if isinstance(builder, str):
        module, _, function = builder.partition(":")
        builder = getattr(import_module(module), function)
    return builder(**options)
