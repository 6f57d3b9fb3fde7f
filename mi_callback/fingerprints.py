"""A short text that changes with every constant of a configuration, so that states of other constants are refused."""

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_callback.errors import StateError


def fingerprint(*configs: Any) -> str:
    """Digest of frozen dataclasses of configuration: the same on every machine and in every version of Python.

    Names of classes and of fields count, and so does every value to its last bit; the order of fields does not.

    Args:
        configs: Frozen dataclasses. Their fields are numbers, texts, None, members of an `Enum`, other frozen
            dataclasses, and tuples, lists or dictionaries of all these.

    Returns:
        32 hexadecimal digits: BLAKE2b of the canonical JSON, `canonical_json(configs)`.

    Raises:
        StateError: If something else is met: what may change after it was hashed, or has no unambiguous text.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Window:
        ...     side: int = 5
        >>> fingerprint(Window()) == fingerprint(Window(side=5))
        True
        >>> fingerprint(Window()) == fingerprint(Window(side=7))
        False
    """
    return blake2b(canonical_json(configs).encode(), digest_size=16).hexdigest()


@lru_cache
def fingerprint_of_code(*rooms: str) -> str:
    """Digest of the source files of rooms of this package: what they compute may differ where their code does.

    Args:
        rooms: Names of folders of the package, such as `registration`, and of files, such as `fitting.py`.

    Returns:
        32 hexadecimal digits. Line ends do not count.
    """
    digest = blake2b(digest_size=16)
    for room in rooms:
        folder = Path(__file__).parent / room
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*.py")):
            digest.update(f"{room}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The one JSON text of a value that `fingerprint` takes: keys sorted, no blanks, floats as `repr` writes them.

    Example:
        >>> canonical_json({"b": 0.1, "a": (1, None)})
        '{"a":[1,null],"b":0.1}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_hash(*values: Any) -> str:
    """Hash of tensors, texts, numbers, and lists and dictionaries of them: other shapes and types, another hash.

    Example:
        >>> content_hash("a", [1, None]) == content_hash("a", [1, None])
        True
        >>> content_hash(torch.zeros(2)) == content_hash(torch.zeros(1, 2))
        False
    """
    whole = blake2b(digest_size=20)
    _feed(whole, values)
    return whole.hexdigest()


def _feed(whole: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        whole.update(repr((value.dtype, tuple(value.shape))).encode())
        whole.update(value.flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        whole.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(whole, key)
            _feed(whole, item)
    elif isinstance(value, (list, tuple)):
        whole.update(f"list {len(value)}".encode())
        for item in value:
            _feed(whole, item)
    else:
        text = repr(value).encode(errors="surrogateescape")
        whole.update(f"{type(value).__name__} {len(text)} ".encode() + text)


def _plain(value: Any) -> Any:
    """The same in types that JSON knows."""
    if isinstance(value, Enum):
        return {type(value).__name__: value.name}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, dict):  # the number 2 is another key than the text "2"
        return sorted(([_plain(key), _plain(item)] for key, item in value.items()), key=json.dumps)
    if _is_frozen(value):
        return {type(value).__name__: {field.name: _plain(getattr(value, field.name)) for field in fields(value)}}
    raise StateError(
        f"needed frozen dataclasses of numbers, texts, enums, tuples and dictionaries; a {type(value).__name__} came: "
        "declare it with @dataclass(frozen=True), or convert it to a plain type."
    )


def _is_frozen(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type) and value.__dataclass_params__.frozen  # type: ignore[attr-defined]
