"""Options as they must be: whole numbers, probabilities, switches, devices, names. Nothing is accepted and ignored."""

import inspect
import math
import operator
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mi_callback.errors import CalibrationError, MemorizationError, OptionError

if TYPE_CHECKING:
    import torch

MOST = 2**63 - 1
"""The largest number that seeds every generator."""


def integer(
    name: str,
    value: object,
    least: int | None = None,
    most: int | None = None,
    error: type[MemorizationError] = OptionError,
) -> int:
    """A whole number; those of NumPy and torch too, but no truth value and no float, not even 2.0.

    Args:
        name: Of the option, for the message.
        value: What came.
        least, most: Bounds, included; None for no bound.
        error: Raised for anything else.

    Raises:
        MemorizationError: `error`, with what was needed and what came.

    Example:
        >>> integer("candidates", 8, least=1)
        8
        >>> integer("candidates", True)
        Traceback (most recent call last):
        mi_callback.errors.OptionError: needed candidates as a whole number; True came.
    """
    try:
        whole = None if _is_truth(value) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is None:
        raise error(f"needed {name} as a whole number; {value!r} came.")
    if least is not None and whole < least:
        raise error(f"needed {name} of at least {least}; {value!r} came.")
    if most is not None and whole > most:
        raise error(f"needed {name} of at most {most}; {value!r} came.")
    return whole


def positive_integer(name: str, value: object, error: type[MemorizationError] = OptionError) -> int:
    """A whole number of at least 1; see `integer`."""
    return integer(name, value, least=1, error=error)


def seed_number(name: str, value: object, error: type[MemorizationError] = OptionError) -> int:
    """A whole number that seeds every random generator: 0 to 2⁶³ − 1; see `integer`."""
    return integer(name, value, least=0, most=MOST, error=error)


def probability(name: str, value: object, error: type[MemorizationError] = OptionError) -> float:
    """A number between 0 and 1, both excluded.

    Raises:
        MemorizationError: `error`, for anything else: 0, 1, NaN, a truth value, a text.

    Example:
        >>> probability("alpha", 0.05)
        0.05
        >>> probability("alpha", 5)
        Traceback (most recent call last):
        mi_callback.errors.OptionError: needed alpha between 0 and 1; 5 came.
    """
    number = _number(value)
    if number is None or not 0 < number < 1:
        raise error(f"needed {name} between 0 and 1; {value!r} came.")
    return number


def switch(name: str, value: object, error: type[MemorizationError] = OptionError) -> bool:
    """True or False, and nothing that merely passes for it: `"false"` would count as true.

    Raises:
        MemorizationError: `error`, for anything else.
    """
    if not _is_truth(value):
        raise error(f"needed {name} True or False; {value!r} came.")
    return bool(value)


def switch_beside(
    name: str, value: object, other: str, on: bool, error: type[MemorizationError] = CalibrationError
) -> bool:
    """A switch that means something only while another one is on, which it follows when it is None.

    Args:
        name: Of the option, for the message.
        value: What came.
        other: Name of the other switch.
        on: Whether that one is on.
        error: Raised for a switch that is on alone.

    Raises:
        OptionError: For what is no switch.
        MemorizationError: `error`, with what was needed and what came.

    Example:
        >>> switch_beside("views", None, "verify", True)
        True
    """
    if value is None:
        return on
    if switch(name, value) and not on:
        raise error(f"needed {other}=True for {name}=True; {other}=False came. Leave {name} out.")
    return bool(value)


def usable_device(
    name: str, value: "torch.device | str | None", error: type[MemorizationError] = OptionError
) -> "torch.device":
    """A device that this machine has: CUDA if there is one, else the CPU, when None.

    Raises:
        MemorizationError: `error`, for a device that is unknown or not there.
    """
    import torch

    if value is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as problem:
        raise error(f"needed {name} as torch names it, e.g. 'cpu' or 'cuda:0'; {value!r} came.") from problem
    count = _devices(device.type)
    if (device.index or 0) >= count:
        raise error(
            f"needed a {name} of this machine; {value!r} came, and torch sees {count} of type {device.type!r} here. "
            f"Leave {name} out to take what there is."
        )
    return device


def known_options(
    given: Iterable[str], taker: Callable[..., Any], error: type[MemorizationError] = OptionError
) -> None:
    """Refuse options that `taker` does not have, with the closest name that it has.

    Args:
        given: Names of the options that came.
        taker: The class or function that they are for.
        error: Raised for unknown ones.

    Raises:
        MemorizationError: `error`.

    Example:
        >>> def search(candidates): ...
        >>> known_options(["candidate"], search)
        Traceback (most recent call last):
        mi_callback.errors.OptionError: needed options of search; it has no 'candidate' (candidates?).
    """
    known = [name for name in inspect.signature(taker).parameters if name != "self"]
    unknown = [f"{name!r}{_meant(str(name), known)}" for name in given if name not in known]
    if unknown:
        raise error(f"needed options of {taker.__name__}; it has no {', '.join(unknown)}.")


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" ({close[0]}?)" if close else ""


def _is_truth(value: object) -> bool:
    # The truth values of NumPy and torch are of other types, and count as whole numbers.
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def _number(value: object) -> float | None:
    if _is_truth(value) or isinstance(value, (str, bytes)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if math.isnan(number) else number


def _devices(kind: str) -> int:
    """How many devices of this type torch can use."""
    import torch

    if kind in ("cpu", "meta"):
        return int(kind == "cpu")
    backend = getattr(torch, kind, None)
    if backend is None or not backend.is_available():
        return 0
    return int(backend.device_count())
