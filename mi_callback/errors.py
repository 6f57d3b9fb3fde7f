"""The error family. Every message says what was needed, what came, and what to do."""

from collections.abc import Collection
from enum import Enum, EnumType
from typing import Any, TypeVar, overload

_Member = TypeVar("_Member", bound=Enum)


class MemorizationError(Exception):
    """Base of every error that this package raises on purpose."""


class OptionError(MemorizationError, ValueError, TypeError):
    """An option that is unknown, of the wrong kind, out of its range, or without effect beside others.

    It is both of Python's own errors for this, so that whoever catches either is served.
    """


class DataError(MemorizationError, ValueError):
    """Images, subjects or batches that cannot be scored: empty, NaN, constant, wrong shape, shared subjects."""


class EncoderError(MemorizationError, ValueError):
    """An encoder that is unknown, has no or wrong weights, or returns other shapes than it declared."""


class CalibrationError(MemorizationError, ValueError):
    """A null distribution that is empty, not finite, or undefined for these data."""


class SamplerError(MemorizationError, TypeError):
    """No way to draw images from the module was found, or what it drew is not usable."""


class StateError(MemorizationError, RuntimeError):
    """A call out of order, or stored state that belongs to other data or another encoder."""


class OutputError(MemorizationError, OSError):
    """A file or folder that cannot be written."""


class AlarmError(MemorizationError, RuntimeError):
    """A generator that was watched copies its training set, and an error was asked for then."""


class BusyError(OutputError):
    """A folder into which another process is writing."""


class RecordError(MemorizationError, ValueError):
    """A report or its log that is not there, or not what was written."""


@overload
def choice(name: str, value: object, kinds: type[_Member], error: type[MemorizationError] = ...) -> _Member: ...


@overload
def choice(name: str, value: object, kinds: Collection[str], error: type[MemorizationError] = ...) -> str: ...


def choice(
    name: str, value: object, kinds: type[Enum] | Collection[str], error: type[MemorizationError] = DataError
) -> Any:
    """The kind that a user asked for, where it is one.

    Args:
        name: Of the option, for the message.
        value: What came: a member of `kinds`, or its value.
        kinds: An `Enum`, most often a `StrEnum`, or names.
        error: Raised for anything else.

    Returns:
        The member of the `Enum`, or the name.

    Raises:
        MemorizationError: `error`, which lists the kinds that there are.

    Example:
        >>> from enum import StrEnum
        >>> class Orbit(StrEnum):
        ...     NONE = "none"
        ...     FLIPS = "flips"
        >>> choice("poses", "flips", Orbit)
        <Orbit.FLIPS: 'flips'>
        >>> choice("poses", "mirrored", Orbit)
        Traceback (most recent call last):
        mi_callback.errors.DataError: needed poses out of ['none', 'flips']; 'mirrored' came.
    """
    known = [kind.value if isinstance(kind, Enum) else kind for kind in kinds]
    if value not in known:
        raise error(f"needed {name} out of {known}; {value!r} came.")
    return kinds(value) if isinstance(kinds, EnumType) else value
