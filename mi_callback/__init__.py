"""Catch a generative model of medical images while it copies its training set.

>>> from mi_callback import MemorizationCallback
>>> trainer = lightning.Trainer(callbacks=[MemorizationCallback()])  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mi_callback.version import __version__

if TYPE_CHECKING:
    from mi_callback.auditing import audit
    from mi_callback.callback import MemorizationCallback
    from mi_callback.detector import MemorizationDetector
    from mi_callback.encoders import build_encoder
    from mi_callback.metric import MemorizationIndex
    from mi_callback.scores import Scores


_HOMES = {
    "MemorizationCallback": "callback",
    "MemorizationDetector": "detector",
    "MemorizationIndex": "metric",
    "Scores": "scores",
    "audit": "auditing",
    "build_encoder": "encoders",
}

__all__ = [
    "MemorizationCallback",
    "MemorizationDetector",
    "MemorizationIndex",
    "Scores",
    "__version__",
    "audit",
    "build_encoder",
]


def __getattr__(name: str) -> Any:
    # Looked up on first use: Hydra imports this package for its configs, long before anyone needs torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
