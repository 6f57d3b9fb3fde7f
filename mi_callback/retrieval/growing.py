"""Tensors that grow row by row: in memory while they are small, in a file without a name when they are large."""

import math
import mmap
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

LARGE = 2**26
"""Bytes beyond which a tensor lies in a file. A training set has up to 25 of them: layers, windows, descriptors,
thumbnails, and the same whitened."""

BLOCK = 2**23
"""Bytes that are copied or computed at a time."""

OWN_PAGES = 2**18
"""Bytes from which memory is mapped, not taken from the heap, which would keep it from the system when it is freed."""


class GrowingTensor:
    """Rows that are appended: no small tensor for each, which would keep the memory between them from being freed.

    The file has no name and is readable by its owner alone, so that nothing is left when the process ends, however it
    ends. It lies where `TMPDIR` says. Where there is no room for it, all stays in memory, with a warning.

    Args:
        shape: Of one row.
        dtype: Of all.
        device: Only what is on the CPU goes into a file.
        expected: How many rows will come, where that is known.
        large: Bytes beyond which they lie in a file; `LARGE` when None.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        expected: int = 0,
        large: int | None = None,
    ) -> None:
        self._file: IO[bytes] | None = None
        self._large: float = LARGE if large is None else large
        if torch.device(device).type != "cpu":
            self._large = float("inf")
        self._rows, self._one = 0, dtype.itemsize * math.prod(shape)
        within = expected if expected * self._one <= self._large else 0
        self._memory = _empty((within, *shape), dtype, device)

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: Tensor) -> None:
        """More rows, of any dtype that the other can hold."""
        rows = rows.to(self._memory)
        if self._file is None and (self._rows + len(rows)) * self._one > self._large:
            self._move_into_file()
        if self._file is not None:
            self._append_to_file(self._file, rows)
        else:
            self._append_in_memory(rows)

    def tensor(self) -> Tensor:
        """All rows `(n, *shape)`; mapped where they lie in a file. Nothing may be appended afterwards."""
        if self._file is not None:
            self._memory, self._file = self._mapped(self._file), None
        if self._rows < len(self._memory):
            self._resize(self._rows)
        return self._memory

    def _append_in_memory(self, rows: Tensor) -> None:
        if self._rows + len(rows) > len(self._memory):
            self._resize(max(2 * self._rows, self._rows + len(rows)))
        self._memory[self._rows : self._rows + len(rows)] = rows
        self._rows += len(rows)

    def _resize(self, rows: int) -> None:
        resized = _empty((rows, *self._memory.shape[1:]), self._memory.dtype, self._memory.device)
        resized[: self._rows] = self._memory[: self._rows]
        self._memory = resized

    def _move_into_file(self) -> None:
        try:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  lives as long as its mapping
            _write(file, self._memory[: self._rows])
        except OSError as error:
            self._stay_in_memory(error)
        else:
            self._file, self._memory = file, self._memory.new_empty((0, *self._memory.shape[1:]))

    def _append_to_file(self, file: IO[bytes], rows: Tensor) -> None:
        try:
            _write(file, rows)
            self._rows += len(rows)
        except OSError as error:
            self._memory, self._file = self._mapped(file).clone(), None
            self._stay_in_memory(error)
            self._append_in_memory(rows)

    def _mapped(self, file: IO[bytes]) -> Tensor:
        with file:  # the mapping holds it open
            shape, dtype = (self._rows, *self._memory.shape[1:]), self._memory.numpy().dtype
            if self._rows * self._one == 0:
                return self._memory.new_empty(shape)
            return torch.from_numpy(np.memmap(file, dtype, "r+", shape=shape))  # type: ignore[call-overload]

    def _stay_in_memory(self, error: OSError) -> None:
        self._large = float("inf")
        warnings.warn(
            f"features stay in memory: the folder of temporary files cannot take them ({error.strerror}). Where they "
            "are more than fits, set TMPDIR to a disk with room.",
            stacklevel=4,
        )


class GrowingColumns:
    """`{key: (poses, n, …)}`, features that grow along n."""

    def __init__(self) -> None:
        self.grown = dict[str, GrowingTensor]()

    def append(self, found: dict[str, Tensor]) -> None:
        for key, features in found.items():
            rows = features.transpose(0, 1)
            if key not in self.grown:
                self.grown[key] = GrowingTensor(rows.shape[1:], rows.dtype)
            self.grown[key].append(rows)

    def tensors(self) -> dict[str, Tensor]:
        return {key: grown.tensor().transpose(0, 1) for key, grown in self.grown.items()}


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    if size < OWN_PAGES or torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    return torch.frombuffer(mmap.mmap(-1, size, **private), dtype=dtype).view(shape)


def _write(file: IO[bytes], rows: Tensor) -> None:
    left: Any = memoryview(rows.contiguous().numpy().reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while left:
        left = left[file.write(left) :]


def gather(blocks: Iterable[Tensor], expected: int = 0) -> Tensor:
    """Rows of blocks `(n, *shape)`, one behind the other, of the dtype and on the device of the first; one at least."""
    grown: GrowingTensor | None = None
    for block in blocks:
        if grown is None:
            grown = GrowingTensor(block.shape[1:], block.dtype, block.device, expected)
        grown.append(block)
    assert grown is not None
    return grown.tensor()


def blocks_of(n: int, one: int) -> Iterator[slice]:
    """Slices of n rows of `one` bytes each, `BLOCK` at a time; one empty slice for no rows."""
    step = max(1, BLOCK // max(1, one))
    return (slice(start, min(n, start + step)) for start in range(0, max(1, n), step))


def joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """As `torch.cat`, in memory of its own."""
    rows = [tensor.movedim(dim, 0) for tensor in tensors]
    parts = (one[block] for one in rows for block in blocks_of(len(one), _row_bytes(one)))
    return gather(parts, sum(len(one) for one in rows)).movedim(0, dim)


def taken(tensor: Tensor, rows: Tensor, dim: int = 0) -> Tensor:
    """As `tensor.index_select(dim, rows)`."""
    whole = tensor.movedim(dim, 0)
    return gather((whole[rows[b]] for b in blocks_of(len(rows), _row_bytes(whole))), len(rows)).movedim(0, dim)


def _row_bytes(tensor: Tensor) -> int:
    return tensor.element_size() * (tensor[0].numel() if len(tensor) else 0)
