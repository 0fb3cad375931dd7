"""Reading files of weights from strangers: none of their code runs, and memory stays near the file's size."""

from __future__ import annotations

import logging
import math
import os
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskrcnn.errors import CheckpointError, WeightsWarning, os_reason, printable
from maskrcnn.weights.hdf5 import read_hdf5
from maskrcnn.weights.numpy_pickles import read_arrays
from maskrcnn.weights.pickles import RefusedError
from maskrcnn.weights.recognise import Container, recognise
from maskrcnn.weights.torch_files import read_legacy, read_zip

logger = logging.getLogger("maskrcnn")
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "module", "blobs")
"""Keys under which training scripts save their weights, the preferred first: a `model_ema` beside is left."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers for several GPUs, torch.compile and Lightning put before all names."""
MAX_WRAPPERS = 4
MAX_HEADER = 1 << 23
"""Bytes of a safetensors header; one of a detector has some 100 000."""
LONGEST_NOTE = 1000
"""Characters of metadata that are kept, and that a tensor's name may have."""
MOST_SHARED = 4
"""How often a file's numbers may serve: layers that are shared do so under two names."""

READERS = {"torch": read_zip, "torch before 1.6": read_legacy, "pickle": read_arrays, "hdf5": read_hdf5}
DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    | {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}
)
"""What weights and counters of steps can be."""


class Contents(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    """By their names in the file, in its dtypes; some in a private memory map of the file."""
    metadata: dict[str, str]
    """Short texts, numbers and flags found beside the tensors."""
    container: Container


def read(path: str | os.PathLike[str]) -> Contents:
    """Return the tensors of a file of weights of any kind, recognised by its first bytes.

    Mappings under usual keys ("model", "state_dict", …) are unwrapped, and prefixes that wrappers put before all names
    ("module.", "_orig_mod.", …) taken off. What is left of averaged weights (a `model_ema` beside) is logged.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or holds more than weights; or its tensors
            cannot be weights, see `check_tensors`.
    """
    path = Path(path)
    container = recognise(path)
    if container == "safetensors":
        tree, metadata = read_tensors(path)
        return Contents(_checked(tree, str(path), path.stat().st_size), metadata, container)
    try:
        tree = READERS[container](path)
    except RefusedError as e:
        raise CheckpointError(f"{path} cannot be read as weights: it {e}.") from None
    except OSError as e:
        raise CheckpointError(f"Cannot read {os_reason(path, e)}.") from None
    except MemoryError:
        raise CheckpointError(f"{path} cannot be read as weights: it needs more memory than there is.") from None
    values, metadata = _unwrap(tree)
    return Contents(_checked(values, str(path), path.stat().st_size), metadata, container)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; the tensors are in a private memory map of it.

    Raises:
        CheckpointError: the file is missing, damaged, or not safetensors.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        if head[8:] != b"{":
            raise CheckpointError(f"{path} is not a safetensors file, or it is cut short.")
        (size,) = struct.unpack("<Q", head[:8])
        if size > MAX_HEADER:
            raise CheckpointError(f"{path} is damaged: it declares a header of {size:,} bytes.")
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except OSError as e:
        raise CheckpointError(f"Cannot read {os_reason(path, e)}.") from None
    except SafetensorError as e:
        reason = printable(str(e).removeprefix("Error while deserializing header: "), 200)
        raise CheckpointError(f"{path} is damaged or cut short: {reason}.") from None


def as_tensors(mapping: Mapping[str, Any], source: str = "the mapping") -> dict[str, Tensor]:
    """Return the tensors and arrays of a mapping as tensors, sharing memory where it can be written to.

    Raises:
        CheckpointError: there are none, or they cannot be weights, see `check_tensors`.
    """
    values, _ = _unwrap(mapping)
    return _checked(values, source)


def check_tensors(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that cannot be weights, and warn of values that are not finite.

    Raises:
        CheckpointError: a tensor has no elements, is not dense, is of a dtype that weights do not have, or repeats
            elements; the message names it.
    """
    broken = []
    for name, tensor in tensors.items():
        if len(name) > LONGEST_NOTE:
            raise CheckpointError(f"{source} has a tensor with a name of {len(name):,} characters.")
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{source}: {name!r} is {_dtype_name(tensor.dtype)}, which weights cannot be.")
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise CheckpointError(f"{source}: {name!r} is not a dense tensor with values.")
        if not tensor.numel():
            raise CheckpointError(f"{source}: {name!r} is empty, of shape {_shape(tensor.shape)}.")
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise _repeats(source, name, tensor.shape)
        # Least and greatest take no memory, and both are NaN where one element is.
        if tensor.is_floating_point() and not all(edge.isfinite() for edge in torch.aminmax(tensor)):
            broken.append(name)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        some = ", ".join(map(printable, broken[:3]))
        warnings.warn(f"{source} holds NaN or infinity in {some}{more}.", WeightsWarning, stacklevel=2)


def _repeats(source: str, name: str, shape: Sequence[int]) -> CheckpointError:
    return CheckpointError(
        f"{source}: {name!r} claims {math.prod(shape):,} elements, of shape {_shape(shape)}, but holds fewer."
    )


def _shape(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 10 else f"{str(list(shape[:10]))[:-1]}, …] with {len(shape):,} axes"


def _checked(values: Mapping[str, Any], source: str, size: int | None = None) -> dict[str, Tensor]:
    """Return values as tensors, checked; those from a file of `size` bytes must not share all of them many times."""
    if not values:
        raise CheckpointError(f"{source} does not hold a mapping from names to tensors.")
    for _ in range(MAX_WRAPPERS):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in values)), "")
        values = {name[len(prefix) :]: value for name, value in values.items()} if prefix else values
    tensors = {name: _as_tensor(value, name, source) for name, value in values.items()}
    if size is not None and sum(t.numel() * t.itemsize for t in tensors.values()) > MOST_SHARED * size:
        raise CheckpointError(
            f"{source} claims more than {MOST_SHARED} times as many numbers as it has, by tensors that share them."
        )
    check_tensors(tensors, source)
    return tensors


def _unwrap(tree: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors and arrays of the innermost wrapped mapping, and notes found on the way."""
    notes: dict[str, str] = {}
    for _ in range(MAX_WRAPPERS):
        if not isinstance(tree, Mapping):
            return {}, notes
        notes |= {key: note for key, value in tree.items() if isinstance(key, str) and (note := _note(value))}
        inner = next((key for key in WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        averaged = [key for key, value in tree.items() if isinstance(value, Mapping) and "ema" in str(key).lower()]
        if inner is not None and averaged:
            names = ", ".join(printable(str(key)) for key in averaged[:3])
            logger.warning(
                "What is under %r is taken; the averaged weights beside it, under %s, are not.", inner, names
            )
        if inner is None:
            return {key: value for key, value in tree.items() if isinstance(key, str) and _is_array(value)}, notes
        tree = tree[inner]
    return {}, notes


def _note(value: Any) -> str:
    """Return a short text, number or flag as text, and nothing of all else."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_NOTE else ""
    return str(value) if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64) else ""


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.generic)


def _as_tensor(value: Tensor | np.ndarray | np.generic, name: str, source: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if any(stride == 0 and size > 1 for stride, size in zip(array.strides, array.shape, strict=True)):
        raise _repeats(source, name, array.shape)
    if not array.flags.writeable or not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise CheckpointError(f"{source}: {name!r} is {_dtype_name(array.dtype)}, which weights cannot be.") from None


def _dtype_name(dtype: torch.dtype | np.dtype[Any]) -> str:
    return str(dtype).removeprefix("torch.")
