"""Under which names a callback logs: several in one Trainer stay apart."""

import re
from dataclasses import dataclass
from typing import Any

from mi_callback.errors import OptionError

BASE = "memorization"


@dataclass(frozen=True)
class Names:
    """What is logged, under what.

    Attributes:
        base: First part of all: `memorization`, or `memorization_` and the name of the callback.

    Example:
        >>> Names("memorization_t1").scalar("mi_max"), Names("memorization_t1").media("mi")
        ('memorization_t1/mi_max', 'memorization_t1_media/mi')
    """

    base: str = BASE

    def scalar(self, key: str) -> str:
        """Key of a scalar."""
        return f"{self.base}/{key}"

    def media(self, key: str) -> str:
        """Key of a distribution, a table, a curve or pictures."""
        return f"{self.base}_media/{key}"

    @property
    def title(self) -> str:
        """For people: `Memorization`, or `Memorization t1`."""
        return self.said.capitalize()

    @property
    def said(self) -> str:
        """Before what is said: `memorization`, or `memorization t1`."""
        return self.base.replace("_", " ", 1)


ALONE = Names()
"""Of a callback without a name."""


def checked_name(name: Any) -> Names:
    """The names of a callback.

    Args:
        name: Letters, digits and underscores; None for the callback that is alone.

    Raises:
        OptionError: For anything else.
    """
    if name is None:
        return ALONE
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_]+", name) or re.search(r"(^|_)media$", name):
        raise OptionError(
            f"needed name of letters, digits and underscores that does not end in 'media'; {name!r} came. "
            "MemorizationCallback(name='t1') logs under memorization_t1/."
        )
    return Names(f"{BASE}_{name}")


def check_apart(own: Any, callbacks: Any) -> None:
    """Refuse two callbacks that log under one name.

    Args:
        own: A callback with `names`.
        callbacks: All of the Trainer.

    Raises:
        OptionError: If another one has the same names.
    """
    others = [one for one in callbacks if one is not own and isinstance(one, type(own))]
    if any(one.names == own.names for one in others):
        raise OptionError(
            f"needed callbacks that log under names of their own; two log under {own.names.base}/. Name one of them: "
            "MemorizationCallback(name='…')."
        )
