"""Seconds and peak memory of reading a checkpoint of 250 MB, one fresh process for each kind of file.

Checkpoints that are named are loaded to a network and converted instead, each in a process of its own.
Memory is what the process grows by at most, the file's pages that it maps included, as a multiple of the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from worker import peak, reset_peak, resident

Tensors = dict[str, Tensor]


def made(megabytes: int) -> Tensors:
    """Return tensors of so many megabytes together, of the sizes of a ResNet's, a fifth of them in one."""
    generator = torch.Generator().manual_seed(0)
    left = megabytes * 250_000
    tensors: Tensors = {}
    while left > 0:
        size = min(left, megabytes * 50_000 if not tensors else (64, 512, 65_536, 589_824, 2_359_296)[len(tensors) % 5])
        tensors[f"layer{len(tensors)}.weight"] = torch.randn(size, generator=generator)
        left -= size
    return tensors


def _pickled(protocol: int) -> Callable[[Tensors, Path], None]:
    def write(tensors: Tensors, path: Path) -> None:
        with path.open("wb") as file:
            pickle.dump({"model": {name: tensor.numpy() for name, tensor in tensors.items()}}, file, protocol)

    return write


def _hdf5(tensors: Tensors, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file[name.replace(".", "/")] = np.asarray(tensor)


def _torch(zipped: bool) -> Callable[[Tensors, Path], None]:
    return lambda tensors, path: torch.save({"model": tensors}, path, _use_new_zipfile_serialization=zipped)


WRITERS: dict[str, Callable[[Tensors, Path], None]] = {
    "safetensors": save_file,
    "torch": _torch(True),
    "torch before 1.6": _torch(False),
    "pickle, protocol 2": _pickled(2),
    "pickle, protocol 4": _pickled(4),
    "hdf5": _hdf5,
}


def measure(path: Path) -> None:
    """Print seconds and bytes of memory that reading takes, after a first file has loaded what reading needs."""
    from maskrcnn.weights.read import read

    read(path.with_suffix(".small"))
    reset_peak()
    before, start = resident(), time.perf_counter()
    contents = read(path)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": peak() - before, "tensors": len(contents.tensors)}))


def measure_load(path: Path) -> None:
    """Print the same for a detector's file: to a network, and from it to a file of ours."""
    from maskrcnn import Config, MaskRCNN, load

    logging.disable()
    MaskRCNN(Config.preset("small-fpn", class_names=["a"]))  # what every process pays once
    reset_peak()
    before, start = resident(), time.perf_counter()
    model = load(path)
    loaded = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "ours.safetensors")
    done = time.perf_counter()
    print(json.dumps({"seconds": loaded - start, "converted": done - start, "bytes": peak() - before}))


def _run(*options: str) -> dict[str, float]:
    command = [sys.executable, __file__, *options]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def report_loads(paths: Sequence[Path]) -> None:
    """Print a table of detectors' files."""
    table = Table("file", "MB", "seconds to load", "and to convert", "peak memory / file")
    for path in paths:
        runs = [_run("--measure-load", str(path)) for _ in range(3)]
        found = {key: sorted(run[key] for run in runs)[1] for key in runs[0]}
        size = path.stat().st_size
        table.add_row(
            path.name,
            f"{size / 1e6:.0f}",
            *(f"{found[key]:.2f}" for key in ("seconds", "converted")),
            f"{found['bytes'] / size:.2f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=250, help="size of the checkpoint")
    parser.add_argument("checkpoints", nargs="*", type=Path, help="detectors' files to load and convert instead")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure-load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_load:
        measure_load(options.measure_load)
        return
    if options.checkpoints:
        report_loads(options.checkpoints)
        return
    if options.measure:
        measure(options.measure)
        return
    table = Table("file", "MB", "seconds", "peak memory / file")
    tensors, small = made(options.megabytes), made(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, write in WRITERS.items():
            path = Path(folder) / "weights.bin"
            write(tensors, path)
            write(small, path.with_suffix(".small"))
            found = _run("--measure", str(path))
            size = path.stat().st_size
            table.add_row(name, f"{size / 1e6:.0f}", f"{found['seconds']:.2f}", f"{found['bytes'] / size:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
