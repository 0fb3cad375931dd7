"""Keras' HDF5 files: dense arrays by their paths. Attributes, which hold the Keras configuration, are not read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.pickles import DamagedError, RefusedError

MAX_LINKS = 100_000
MAX_DEPTH = 16
MAX_NAMES = 1 << 23
"""Bytes of the names in one group."""
LONGEST_NAME = 1000
SKIPPED = "optimizer_weights"
WHOLE_MODEL = "model_weights/"
"""Where `model.save` puts what `model.save_weights` puts at the root."""


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Return the datasets of an HDF5 file by their paths, in memory of their own.

    Raises:
        CheckpointError: h5py is not installed.
        RefusedError: the file is damaged, or leads elsewhere, or holds other than dense numbers.
    """
    try:
        import h5py
    except ImportError:
        raise CheckpointError(f"{path} is an HDF5 file; to read it: pip install 'maskrcnn[keras]'.") from None
    arrays: dict[str, np.ndarray] = {}
    left = path.stat().st_size
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name, identity in _datasets(file.id):
                array = _memory(name, identity, path.stat().st_size)
                left -= array.nbytes
                if left < 0:
                    raise RefusedError("declares datasets of more bytes than the file has")
                h5py.Dataset(identity).read_direct(array)
                name = name.removeprefix(WHOLE_MODEL)
                if name in arrays:
                    raise RefusedError(f"has two datasets {name!r}")
                arrays[name] = array
    except (RefusedError, MemoryError):
        raise
    except Exception as e:  # whatever a damaged file provokes in HDF5
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise DamagedError from None
    return arrays


def _datasets(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield the paths and low-level ids of all datasets that hard links lead to."""
    from h5py import h5d, h5g, h5l, h5o

    kinds = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link into another file"}
    seen = {h5o.get_info(root).addr}
    groups = [("", 0, root)]
    left = MAX_LINKS
    while groups:
        prefix, depth, group = groups.pop()
        left -= group.get_num_objs()
        if depth > MAX_DEPTH or left < 0:
            raise RefusedError(f"nests groups deeper than {MAX_DEPTH} or has more than {MAX_LINKS:,} items")
        for link in _names(group):
            name = prefix + link.decode("utf-8")
            if len(name) > LONGEST_NAME:
                raise RefusedError(f"has an item with a name of {len(name):,} characters")
            if name == SKIPPED:
                continue
            kind = group.links.get_info(link).type
            if kind != h5l.TYPE_HARD:
                raise RefusedError(f"has {kinds.get(kind, 'a link of a foreign kind')} at {name!r}")
            item = h5o.open(group, link)
            address = h5o.get_info(item).addr
            if address in seen:
                raise RefusedError(f"has {name!r} under a second path")
            seen.add(address)
            if isinstance(item, h5g.GroupID):
                groups.append((f"{name}/", depth + 1, item))
            elif isinstance(item, h5d.DatasetID):
                yield name, item
            else:
                raise RefusedError(f"has {name!r}, which is neither a group nor a dataset")


def _names(group: Any) -> list[bytes]:
    """Return the names in a group; in a damaged one a few bytes can serve for names of gigabytes."""
    names: list[bytes] = []
    left = MAX_NAMES

    def take(name: bytes) -> bool | None:
        nonlocal left
        left -= len(name)
        names.append(name)
        return True if left < 0 else None  # which ends it

    group.links.iterate(take)
    if left < 0:
        raise RefusedError(f"has a group with more than {MAX_NAMES:,} bytes of names")
    return names


def _memory(name: str, dataset: Any, file_size: int) -> np.ndarray:
    """Return memory for a dataset, after a check that it is dense numbers that the file really holds."""
    from h5py import h5d, h5s, h5t

    numbers = {h5t.INTEGER, h5t.FLOAT}
    others = {
        h5t.STRING: "strings",
        h5t.COMPOUND: "records",
        h5t.REFERENCE: "references",
        h5t.VLEN: "sequences",
        h5t.ENUM: "enumerated values",
    }
    dtype, plan = dataset.get_type(), dataset.get_create_plist()
    if dtype.get_class() not in numbers:
        raise RefusedError(f"has {others.get(dtype.get_class(), 'values that are no numbers')} in {name!r}")
    if plan.get_layout() == h5d.VIRTUAL or plan.get_external_count():
        raise RefusedError(f"has {name!r} stored in another file")
    if plan.get_nfilters():
        raise RefusedError(f"has {name!r} compressed or filtered; save it again without")
    if dataset.get_space().get_simple_extent_type() == h5s.NULL:
        raise RefusedError(f"has {name!r} without values")
    native = np.dtype(dtype.dtype).newbyteorder("=")
    size = math.prod(dataset.shape) * dtype.get_size()
    stored = dataset.get_storage_size()
    if plan.get_layout() == h5d.CHUNKED and math.prod(plan.get_chunk()) * dtype.get_size() > file_size:
        stored = 0
    if size > min(stored, file_size) or (dataset.get_offset() or 0) + size > file_size:
        raise RefusedError(f"declares {name!r} as {list(dataset.shape)} {native}, of which it holds {stored:,} bytes")
    return np.empty(dataset.shape, native)
