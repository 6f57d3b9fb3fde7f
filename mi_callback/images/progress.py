"""How far long work has come, and how long the rest will take: a bar of tqdm, and none beside what is short."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

SHORT = 3.0
"""Seconds after which work has a bar."""

_T = TypeVar("_T")


def counted(things: Iterable[_T], label: str | None, unit: str, total: int | None = None) -> Iterable[_T]:
    """The same things, one after another, with a bar beside them that goes when they end.

    Args:
        things: What is worked on.
        label: Of the bar; None for no bar.
        unit: What one of them is.
        total: How many there are, where they do not tell; None for unknown.
    """
    shown: Iterable[_T] = tqdm(
        things, desc=label, unit=unit, total=total, disable=label is None, leave=False, delay=SHORT
    )
    return shown
