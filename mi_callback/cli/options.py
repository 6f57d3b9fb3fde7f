"""The options of a function as its signature and its docstring give them: one default, one meaning, in one place."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

_ARGS = re.compile(r"^Args:\n((?: {4}.*(?:\n|\Z)|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One parameter of a function.

    Attributes:
        name: As it is written, with dots where it is below another: `detector.alpha`.
        default: None where a value is needed.
        annotation: Its type.
        meaning: What the docstring says of it, on one line.
    """

    name: str
    default: Any
    annotation: Any
    meaning: str


def options_of(function: Callable[..., Any], without: Collection[str] = ()) -> dict[str, Option]:
    """The named parameters of a function or class, in their order.

    Args:
        function: With a docstring of Google style.
        without: Parameters that are no options.

    Example:
        >>> def scale(image, by: float = 2.0):
        ...     '''Scale.
        ...
        ...     Args:
        ...         image: Any image.
        ...         by: How much
        ...             larger.
        ...     '''
        >>> options_of(scale)["by"]
        Option(name='by', default=2.0, annotation=<class 'float'>, meaning='How much larger.')
    """
    meanings = meanings_of(inspect.getdoc(function) or "")
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: Option(p.name, None if p.default is p.empty else p.default, p.annotation, meanings.get(p.name, ""))
        for p in parameters
        if p.kind is not p.VAR_KEYWORD and p.name not in without
    }


def meanings_of(docstring: str) -> dict[str, str]:
    """What the section `Args` of a cleaned docstring says of each parameter."""
    section = _ARGS.search(docstring)
    entries = _ENTRY.findall(section[1]) if section else []
    return {name: " ".join(meaning.split()) for names, meaning in entries for name in names.split(", ")}


def below(name: str, options: Mapping[str, Option]) -> dict[str, Option]:
    """The same options under a name: `alpha` → `detector.alpha`."""
    return {
        f"{name}.{key}": Option(f"{name}.{key}", option.default, option.annotation, option.meaning)
        for key, option in options.items()
    }
