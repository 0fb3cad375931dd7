"""PyTorch's own files: zip archives, and the bare pickles of releases before 1.6.

`torch.load(weights_only=True)` makes the tensors. It runs no code of a file, but believes what a file claims to be
large, so that what it is to read is looked through first.
"""

from __future__ import annotations

import argparse
import math
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from maskrcnn.weights.pickles import (
    DamagedError,
    Machine,
    Pending,
    RefusedError,
    StandIn,
    Stretch,
    encode,
    ordered_dict,
)

MAX_DIRECTORY = 1 << 23
"""Bytes of a zip archive's directory: some 60 000 tensors."""
LEGACY_PICKLES = 5
"""Magic number, version, machine, the data, and the order of the storages that follow."""

MAX_IDENTITY = 6
"""Parts of what tells a storage: what it is, its type, key, place and elements, and in older files its base."""
MAX_DIMENSIONS = 64

ITEM_SIZES = {
    **dict.fromkeys(("Byte", "Char", "Bool"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float"), 4),
    **dict.fromkeys(("Long", "Double", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}


def read_zip(path: Path) -> Any:
    """Return what a torch file holds; its tensors are in the file's memory map, and writing to them copies.

    Raises:
        RefusedError: it is damaged, compressed, no torch file, or holds more than tensors and plain containers.
    """
    with path.open("rb") as file:
        start, size = _find_pickle(path, file)
        _machine(Stretch(file, start, start + size), _Storages(os.fstat(file.fileno()).st_size)).run()
    if path.suffix == ".safetensors":  # by which torch.load goes, whatever the file is
        with path.open("rb") as file:
            return _load(file, mmap=False)
    return _load(path, mmap=True)


def read_legacy(path: Path) -> Any:
    """Return what a torch file from before 1.6 holds.

    Raises:
        RefusedError: it is damaged, or holds more than tensors and plain containers.
    """
    with path.open("rb") as file:
        stretch = Stretch(file)
        storages = _Storages(stretch.end)
        machine = _machine(stretch, storages)
        *_, follow = [machine.run() for _ in range(LEGACY_PICKLES)]
        if type(follow) is not list or follow != sorted(storages.known):
            raise DamagedError  # a tensor of a storage that does not follow would be whatever lies in memory
        file.seek(0)
        return _load(file, mmap=False)


def _load(source: Path | BinaryIO, mmap: bool) -> Any:
    known = torch.serialization.get_safe_globals()
    admitted: list[Any] = [] if argparse.Namespace in known else [argparse.Namespace]  # taken out again afterwards
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(admitted):
            warnings.simplefilter("ignore")  # of old protocols and deprecated storages
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  # whatever a damaged file provokes; torch's own words advise to run its code
        raise DamagedError from None


def _find_pickle(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Return the place and size of the pickle in a torch zip archive, after a check of the archive's directory."""
    _check_directory(file)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error):
        raise DamagedError from None
    # As PyTorch reads them: it takes the folder of the first, heeds no case, and knows no other spelling of a name.
    names = [entry.orig_filename for entry in entries]
    pickles = [e for e in entries if e.orig_filename.count("/") == 1 and e.orig_filename.lower().endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in names):
        raise RefusedError(
            "is a TorchScript archive, a program; save the weights alone with torch.save(module.state_dict(), path)"
        )
    if "model.weights.h5" in names:
        raise RefusedError("is a Keras archive; unpack it and load the model.weights.h5 in it")
    if len({name.lower() for name in names}) < len(names):
        raise RefusedError("is a zip archive with two entries of one name")
    if len(pickles) != 1:
        raise RefusedError("is a zip archive without a checkpoint's data.pkl; if weights are packed in it, unpack it")
    if len({name.split("/")[0] for name in names}) > 1:
        raise RefusedError("is a zip archive of several folders; PyTorch writes one")
    size = os.fstat(file.fileno()).st_size
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise RefusedError(f"has the compressed entry {entry.orig_filename[:100]!r}; PyTorch writes none")
        if not 0 <= entry.header_offset <= size - entry.file_size:
            raise DamagedError
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError("is a zip archive with entries that overlap")
    file.seek(pickles[0].header_offset)
    header = file.read(30)
    if len(header) < 30:
        raise DamagedError
    start = pickles[0].header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if start + pickles[0].file_size > size:
        raise DamagedError
    return start, pickles[0].file_size


def _check_directory(file: BinaryIO) -> None:
    """Refuse directories that would take much memory, since `zipfile` reads the whole one, and all but the plainest.

    `zipfile` and PyTorch look for the directory in different places. Only where it ends where its end record begins,
    and that is the end of the file, do both find the same.
    """
    end = os.fstat(file.fileno()).st_size
    file.seek(max(0, end - 98))
    tail = file.read()  # the end record, and before it what large archives have: a wider one, and where that is
    if tail[-22:-18] != b"PK\5\6":
        raise DamagedError
    size, start, comment = struct.unpack("<IIH", tail[-10:])
    end -= 22
    if tail[-42:-38] == b"PK\6\7":
        (place,) = struct.unpack("<Q", tail[-34:-26])
        end -= 76
        if len(tail) < 98 or tail[:4] != b"PK\6\6" or place != end:
            raise DamagedError
        size, start = struct.unpack("<QQ", tail[40:56])
    if size > MAX_DIRECTORY:
        raise RefusedError(f"has a zip directory of {size:,} bytes, too many for weights")
    if comment or start + size != end:
        raise DamagedError


class _Storage(NamedTuple):
    elements: int


class _Storages:
    """Looks through what a file says of its storages.

    Args:
        size: bytes that they can have together.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self.known: dict[str, tuple[str, int]] = {}

    def declare(self, identity: Any) -> _Storage:
        """Return what a persistent id stands for."""
        if type(identity) is not tuple or len(identity) > MAX_IDENTITY:
            raise DamagedError
        what, (_, kind), key, _, elements, *view = identity
        if what not in ("storage", b"storage") or type(key) is not str or type(elements) is not int or elements < 0:
            raise DamagedError
        if key not in self.known:
            self.known[key] = (kind, elements)
            self.left -= elements * ITEM_SIZES[kind.removesuffix("Storage")]
        if self.known[key] != (kind, elements):
            raise RefusedError("declares a storage twice, with other sizes")
        if self.left < 0:
            raise RefusedError("declares tensors of more bytes than the file has")
        if view and view[0] is not None:  # part of a storage
            _, start, part = view[0]
            if min(start, part) < 0 or start + part > elements:
                raise DamagedError
            return _Storage(part)
        return _Storage(elements)


class _Attributes(Pending):
    """Stands in for `argparse.Namespace`, in which training scripts save their options."""

    def build(self, state: Any) -> None:
        """Ignore the options."""

    @property
    def value(self) -> None:
        """Nothing."""


def _machine(file: Stretch, storages: _Storages) -> Machine:
    """Return a machine that looks through a torch pickle and makes no tensors."""
    admitted: dict[tuple[str, str], StandIn | None] = {
        ("collections", "OrderedDict"): ordered_dict,
        ("collections", "Counter"): _counter,
        ("_codecs", "encode"): encode,
        ("argparse", "Namespace"): _Attributes,
        ("torch", "Size"): tuple,
        ("torch", "device"): lambda *_: None,
        ("torch._utils", "_rebuild_tensor"): _check_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _check_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda *_: None,
    }
    for dtype in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"):
        admitted["torch", dtype] = None
    for kind in ITEM_SIZES:
        admitted["torch", f"{kind}Storage"] = admitted["torch.cuda", f"{kind}Storage"] = None
    return Machine(file, admitted, storages.declare)


def _check_tensor(storage: Any, start: Any, shape: Any, strides: Any, *rest: Any) -> None:
    """Check that a tensor lies within its storage and holds no element twice."""
    if not isinstance(storage, _Storage) or not len(shape) == len(strides) <= MAX_DIMENSIONS or any(rest[1:]):
        raise DamagedError  # hooks, or bits by which its values would mean others
    if any(number < 0 for number in (start, *shape, *strides)):
        raise DamagedError
    count = math.prod(shape)
    last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and (last >= storage.elements or count > storage.elements):
        raise RefusedError("declares tensors of more elements than it holds")


def _counter(counts: Any) -> dict[Any, Any]:
    """Stand in for `collections.Counter`, in which schedules keep their milestones."""
    if type(counts) is not dict:
        raise DamagedError
    return counts
