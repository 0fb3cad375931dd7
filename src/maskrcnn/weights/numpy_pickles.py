"""Pickled NumPy arrays, as Detectron2's and MSRA's model zoos hold them, of Python 2 and 3 and all protocols."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.weights.pickles import (
    DamagedError,
    Machine,
    Pending,
    RefusedError,
    Span,
    StandIn,
    Stretch,
    encode,
    ordered_dict,
)

PIECE = 1 << 20
MAX_DIMENSIONS = 32


def read_arrays(path: Path) -> Any:
    """Return the containers of a pickle and, as NumPy arrays of their own memory, its arrays.

    Each array is read straight from the file into its memory. Arrays of what is no number come back empty, with
    their type, for the caller to name.

    Raises:
        RefusedError: it is damaged, or holds what is neither an array nor a plain container.
    """
    with path.open("rb") as file:
        stretch = Stretch(file)
        return Machine(stretch, _Arrays(stretch).stand_ins()).run()


class _Arrays:
    """Stand-ins for the functions by which NumPy's arrays are pickled."""

    def __init__(self, file: Stretch) -> None:
        self.file = file
        self.left = file.end  # bytes of arrays that the file can still hold

    def stand_ins(self) -> dict[tuple[str, str], StandIn | None]:
        names: dict[tuple[str, str], StandIn | None] = {
            ("collections", "OrderedDict"): ordered_dict,
            ("_codecs", "encode"): encode,
            ("__builtin__", "bytes"): _no_bytes,
            ("builtins", "bytes"): _no_bytes,
            ("numpy", "dtype"): _Dtype,
            ("numpy", "ndarray"): None,
        }
        for core in ("numpy.core", "numpy._core"):  # renamed in NumPy 2
            names[f"{core}.multiarray", "_reconstruct"] = lambda *_: _Array(self)
            names[f"{core}.multiarray", "scalar"] = lambda dtype, data: self.array((), dtype, False, data)
            names[f"{core}.numeric", "_frombuffer"] = self._from_buffer
        return names

    def _from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        return self.array(shape, dtype, order == "F", data)

    def array(self, shape: Any, dtype: Any, is_fortran: Any, data: Any) -> np.ndarray:
        """Return an array with its values from the file."""
        if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
            raise DamagedError
        if dtype.kind not in "biuf":
            return np.empty(0, dtype)
        if not all(type(size) is int and size >= 0 for size in shape):
            raise DamagedError
        small = max(shape, default=0) <= self.file.end  # the product of huge numbers takes long
        size = math.prod(shape) * dtype.itemsize if small else 0
        self.left -= size
        if self.left < 0 or not small:
            raise RefusedError("declares arrays of more bytes than the file has")
        if not isinstance(data, Span):
            data = data.encode("latin1") if isinstance(data, str) else data
            if not isinstance(data, bytes) or len(data) != size:
                raise DamagedError
        elif not data.is_text and data.size != size:
            raise DamagedError
        flat = np.empty(math.prod(shape), dtype)
        self._fill(flat.view(np.uint8), data)
        if not dtype.isnative:
            flat = flat.byteswap(inplace=True).view(dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if is_fortran else "C")

    def _fill(self, memory: np.ndarray, data: bytes | Span) -> None:
        if isinstance(data, bytes):
            memory[:] = np.frombuffer(data, np.uint8)
            return
        after = self.file.position
        self.file.seek(data.start)
        if data.is_text:
            self._fill_from_text(memory, data.size)
        else:
            self.file.read_into(memory.data)
        self.file.seek(after)

    def _fill_from_text(self, memory: np.ndarray, left: int) -> None:
        """Fill from bytes written as the UTF-8 of as many characters, piece by piece."""
        decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
        while left:
            size = min(left, PIECE)
            piece = decoder.decode(self.file.read(size), final=size == left).encode("latin1")
            memory[at : at + len(piece)] = np.frombuffer(piece, np.uint8)  # a ValueError if it does not fit
            left, at = left - size, at + len(piece)
        if at != len(memory):
            raise DamagedError


class _Dtype(Pending):
    """Stands in for `numpy.dtype`, which learns its byte order and fields after it was made."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[a-zA-Z]\d{0,9}", code):
            raise DamagedError
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if any(part is not None for part in state[2:5]):  # of elements that are arrays or have fields
            raise RefusedError("holds arrays of records, which weights are not")
        if self.dtype.kind in "biufc":
            self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")

    @property
    def value(self) -> np.dtype[Any]:
        return self.dtype


class _Array(Pending):
    """Stands in for an array, of which everything comes after it was made."""

    def __init__(self, arrays: _Arrays) -> None:
        self.arrays = arrays
        self.array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = self.arrays.array(shape, dtype, is_fortran, data)

    @property
    def value(self) -> np.ndarray:
        if self.array is None:
            raise DamagedError
        return self.array


def _no_bytes(*arguments: Any) -> bytes:
    """Stand in for `bytes` of nothing, which Python 3 writes so in protocols 0 to 2."""
    if arguments:
        raise DamagedError
    return b""
