"""Options → a structured config, by which Hydra refuses unknown keys and values of a wrong type."""

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Optional, Union, get_args, get_origin

from mi_callback.cli.options import Option


def schema_of(name: str, options: Mapping[str, Option]) -> type:
    """A dataclass with one field per option; those with a dot are in a dataclass of their own.

    Args:
        name: Of the class.
        options: By their full names.
    """
    fields: list[tuple[str, Any, Any]] = []
    for key, option in options.items():
        if "." not in key:
            kind = field_type(option.annotation)
            if option.default is None and kind is not Any:
                kind = Optional[kind]  # noqa: UP045  a type at run time; None until it is given
            fields.append((key, kind, field(default=_plain(option.default))))
    for group in dict.fromkeys(key.partition(".")[0] for key in options if "." in key):
        inner = {key.partition(".")[2]: option for key, option in options.items() if key.startswith(f"{group}.")}
        schema = schema_of(f"{name}_{group}", inner)
        fields.append((group, schema, field(default_factory=schema)))
    return make_dataclass(name, fields)


def field_type(annotation: Any) -> Any:
    """What OmegaConf can check of a type: numbers, truth values, names and their absence; else Any.

    Example:
        >>> field_type(float | None), field_type(Literal["none", "flips"]), field_type(dict[str, float] | str)
        (typing.Optional[float], <class 'str'>, typing.Any)
    """
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    known = {_simple(kind) for kind in kinds if kind is not NoneType}
    if len(known) != 1 or Any in known:
        return Any
    (kind,) = known
    return Optional[kind] if NoneType in kinds else kind  # noqa: UP045  a type at run time


def _simple(kind: Any) -> Any:
    if kind in (bool, int, float, str):
        return kind
    names = get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))
    return str if names else Any


def _plain(default: Any) -> Any:
    return default.value if isinstance(default, Enum) else default
