"""Encoders by name. One family a file; each builder returns something that satisfies `Encoder`."""

from mi_callback.encoders.catalogue import Entry
from mi_callback.encoders.hooked import HookedEncoder
from mi_callback.encoders.pooling import Layer
from mi_callback.encoders.protocol import Card, Encoder
from mi_callback.encoders.registry import available, build_encoder, entry, register

__all__ = ["Card", "Encoder", "Entry", "HookedEncoder", "Layer", "available", "build_encoder", "entry", "register"]
