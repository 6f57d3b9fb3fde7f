"""What can be told of data without reading their images: whether they are, most likely, the same as before."""

import os
import pickle
import random
import stat
from hashlib import blake2b
from pathlib import PurePath
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mi_callback.fingerprints import content_hash
from mi_callback.lightning.data.sides import Sides, Source

ENTRIES = 1_000_000
"""Files that are looked at, at most: beyond them reading all images is as fast."""

CHANCE = (np.random.RandomState, np.random.Generator, np.random.BitGenerator, random.Random, torch.Generator)
"""What differs in every process, and is no part of the data."""


def outline_of(sides: Sides) -> str | None:
    """Hash of all that both sides hold: images in memory, options and code of data sets and transforms, and of files
    that they name, or that lie in folders that they name, size and time of the last change.

    Returns:
        32 hexadecimal digits; None where images may change without a trace in them: streams, data sets that hold
        neither their images nor the names of files, and those that cannot be pickled.
    """
    outline = _Outline()
    try:
        for side in (sides.train, sides.held_out):
            outline.dump(len(side))
            if not all(outline.tells(source) for source in side):
                return None
        outline.dump([sides.subject_key, sides.image_key])
    except Exception:  # objects of others, pickled: any error may come
        return None
    return outline.hash.hexdigest()


class _Outline(pickle.Pickler):
    """Goes through an object as pickling does, into a hash. What it writes is never read.

    Attributes:
        hash: Of all so far.
        files, images: How many of them were among it.
    """

    def __init__(self) -> None:
        self.hash, self.files, self.images, self._entries = blake2b(digest_size=16), 0, 0, 0
        self._seen = set[Any]()
        super().__init__(SimpleNamespace(write=self.hash.update), protocol=5)

    def tells(self, source: Source) -> bool:
        """Add a source; whether that shows when its images are others."""
        loader = source.data if isinstance(source.data, DataLoader) else None
        files, images = self.files, self.images
        self.clear_memo()  # what it has in common with other sources counts for each
        self.dump([source.rows, loader and loader.collate_fn, source.data if loader is None else loader.dataset])
        return not source.stream and source.count > 0 and (
            self.files > files or self.images - images >= source.count
        )  # fmt: skip

    def persistent_id(self, value: Any) -> Any:
        """What is written in the place of a value; None for what pickling writes."""
        if isinstance(value, str):  # not to be known by its place in memory
            self._write(value)
            self._add_file(value, "." in value or os.sep in value)
            return 0
        if isinstance(value, PurePath):
            self._write(str(value))
            self._add_file(str(value))
            return 0
        if isinstance(value, (set, frozenset)):
            return tuple(sorted(map(repr, value)))
        if isinstance(value, CHANCE):
            return 0
        if isinstance(value, (Tensor, np.ndarray)):
            return self._array(value)
        return self._code(value) if isinstance(value, (type, FunctionType)) else None

    def _array(self, value: Tensor | np.ndarray) -> Any:
        if isinstance(value, np.memmap) and value.filename is not None:
            return str(value.filename), value.offset, value.shape, str(value.dtype)
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return value.tolist()
        if isinstance(value, Tensor):
            self._write(content_hash(value.detach().as_subclass(Tensor)))
        else:
            self._write(f"{value.dtype} {value.shape}")
            self.hash.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        self.images += len(value) if value.ndim > 2 else int(value.ndim == 2)
        return dict(getattr(value, "__dict__", {}))

    def _code(self, value: Any) -> Any:
        """Name and code of a function or class, and once what a function holds."""
        self._write(f"{value.__module__}.{value.__qualname__}")
        if value in self._seen:
            return 0
        self._seen.add(value)
        if isinstance(value, FunctionType):
            self._write(_text(value.__code__))
            cells = [getattr(cell, "cell_contents", None) for cell in value.__closure__ or ()]
            return cells, value.__defaults__, value.__kwdefaults__
        for one in (one for kind in value.__mro__ for one in vars(kind).values() if isinstance(one, FunctionType)):
            self._write(_text(one.__code__))
        return 0

    def _add_file(self, name: str, likely: bool = True) -> None:
        """Size and time of a file, or of all below a folder; nothing where there is neither."""
        if not likely or not name.strip("./"):
            return
        try:
            found = os.stat(name)
        except (OSError, ValueError):
            return
        self._entries += 1
        if self._entries > ENTRIES:
            raise ValueError("too many files")
        if stat.S_ISDIR(found.st_mode):
            for entry in sorted(os.listdir(name)):
                self._add_file(os.path.join(name, entry))
            return
        self.files += 1
        # The time of the last change of any kind, too: tools that copy put the other one back.
        self._write(f"{name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")

    def _write(self, text: str) -> None:
        content = text.encode(errors="surrogatepass")
        self.hash.update(f"{len(content)} ".encode() + content)


def _text(code: CodeType) -> str:
    """The same in every process."""
    constants = [
        _text(one) if isinstance(one, CodeType) else sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)
        for one in code.co_consts
    ]
    return repr((code.co_code, code.co_names, constants))
