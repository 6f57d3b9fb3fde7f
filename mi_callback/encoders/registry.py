"""Encoders by name: `build_encoder` makes those of the catalogue, `register` adds to it."""

import warnings
from collections.abc import Callable
from typing import Any

from mi_callback.encoders.catalogue import CATALOGUE, Entry
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.protocol import Card, Encoder
from mi_callback.errors import EncoderError


def available() -> list[str]:
    """Names that `build_encoder` knows."""
    return sorted(CATALOGUE)


def entry(name: str) -> Entry:
    """What the catalogue says of an encoder: licence, citation, what it needs.

    Raises:
        EncoderError: If there is none of that name.
    """
    if name not in CATALOGUE:
        raise EncoderError(f"needed an encoder out of {available()}; {name!r} came.")
    return CATALOGUE[name]


def register(name: str, builder: Callable[..., Encoder], card: Card | None = None, **about: Any) -> None:
    """Make `build_encoder(name, **options)` call `builder(**options)`.

    Args:
        card: Licence and citation of its weights.
        about: Other attributes of `Entry`.
    """
    CATALOGUE[name] = Entry(builder, card or Card(), **about)


def build_encoder(name: str | Encoder = "bundled", **options: Any) -> Encoder:
    """Any registered encoder by name; an encoder that is already one is returned as it is.

    Warns where the licence of the weights restricts their use.

    Args:
        name: One of `available()`, or an object that satisfies `Encoder`.
        options: Passed to the builder, e.g. `build_encoder("module", network=net, layers={"layer3": "BCHW"}, size=96)`.

    Raises:
        EncoderError: If the name is unknown, the object lacks what the protocol asks for, or weights are missing or
            wrong.
    """
    if not isinstance(name, str):
        if isinstance(name, Encoder):
            return name
        raise EncoderError(
            f"needed an encoder's name out of {available()} or a module with declared layers; {type(name).__name__} "
            "came. Wrap it: build_encoder('module', network=net, layers={'layer3': 'BCHW'}, size=224)."
        )
    found = entry(name)
    encoder = found.build(**options)
    if found.card.restricted:
        warnings.warn(f"the weights of {name!r} are under {found.card.licence}: {found.card.source}.", stacklevel=2)
    if isinstance(encoder, HookedEncoder) and encoder.card == Card():
        encoder.card = found.card
    return encoder
