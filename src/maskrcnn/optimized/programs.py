"""Compiled programs, kept on disk: one for every network's form and type of numbers, whatever its weights.

A program is made by `torch.export` and AOTInductor, and takes its weights when it is loaded, so that what was compiled
for one checkpoint serves all others of the same configuration. It takes batches and images of any size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskrcnn.errors import WriteError
from maskrcnn.ops.stand_ins import tracing_by_value
from maskrcnn.optimized.halves import FirstHalf, SecondHalf
from maskrcnn.optimized.precision import processor

logger = logging.getLogger("maskrcnn")

PROGRAM, CONSTANTS = "program.pt2", "constants.safetensors"
KEPT = 32
"""Programs that the cache keeps, a few megabytes each; the ones not used for longest go first."""

OTHERS = frozenset({"cli", "data", "evaluation", "inspection", "training", "weights"})
"""Parts of the package that no program is made of."""

Run = Callable[..., tuple[Tensor, ...]]


def load_program(half: FirstHalf | SecondHalf, sample: Callable[[], tuple[Any, Any]], sizes: str) -> Run:
    """Return half a network as a compiled program, out of the cache or made for it.

    Args:
        half: channels last, in its type of numbers. Its weights are used, not copied.
        sample: gives inputs to trace it with, and which of their sizes may differ.
        sizes: names what `sample` gives.

    Raises:
        WriteError: there is no folder to keep it in.
        Exception: what torch raises where it cannot compile it.
    """
    from maskrcnn.optimized import operators  # noqa: F401  # what the program calls

    folder = programs_folder()
    place = folder / key(half, sizes)
    with FileLock(folder / f"{place.name}.lock"):
        if not (place / PROGRAM).exists():
            logger.warning(
                "Compiling %s for this machine, once for all networks of this form; less than a minute.",
                "the network up to its boxes" if isinstance(half, FirstHalf) else "its mask branch",
                extra={"note": True},
            )
            _make(half, sample, place)
            _forget_oldest(folder)
        try:
            return _opened(half, place)
        except (RuntimeError, OSError, SafetensorError):  # a damaged file, or one that is gone
            _make(half, sample, place)
            return _opened(half, place)


def _make(half: FirstHalf | SecondHalf, sample: Callable[[], tuple[Any, Any]], place: Path) -> None:
    """Compile the program and put it into its place, whole or not at all."""
    inputs, shapes = sample()
    new = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad(), tracing_by_value():
            warnings.simplefilter("ignore")  # torch's compiler warns of itself
            program = torch.export.export(half, inputs, dynamic_shapes=shapes, strict=False)
            # Nothing of the weights goes into the file.
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(new / PROGRAM),
                inductor_configs={"aot_inductor.package_constants_in_so": False},
            )
        weights = half.state_dict()
        others = {n: t for n, t in program.constants.items() if isinstance(t, Tensor) and n not in weights}
        save_file({name: tensor.detach().contiguous() for name, tensor in others.items()}, new / CONSTANTS)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(new, place)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _opened(half: FirstHalf | SecondHalf, place: Path) -> Run:
    """Return the program in a place, with the weights of a network."""
    os.utime(place)
    loader: Any = torch._C._aoti.AOTIModelPackageLoader(str(place / PROGRAM), "model", False, 1, -1)
    tensors = {**half.state_dict(), **load_file(place / CONSTANTS)}
    wanted = set(loader.get_constant_fqns())
    weights = {name: tensor for name, tensor in tensors.items() if name in wanted}
    if wanted - weights.keys():
        raise RuntimeError(f"the program wants {', '.join(sorted(wanted - weights.keys()))}")
    loader.load_constants(weights, False, False, True)
    return Program(loader, weights)


class Program:
    """A compiled program with its weights, of which it holds the addresses alone."""

    def __init__(self, loader: Any, weights: dict[str, Tensor]) -> None:
        self._loader = loader
        self._weights = weights

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Return the outputs; lists among the inputs are taken apart."""
        flat = [tensor for each in inputs for tensor in (each if isinstance(each, list) else [each])]
        return tuple(self._loader.boxed_run(flat))


def key(half: FirstHalf | SecondHalf, sizes: str) -> str:
    """Return a name for a program: whatever the compiled code depends on changes it."""
    config = half.model.config
    form = {**json.loads(config.to_json()), "class_names": config.num_classes}
    parts = [
        *(type(half).__name__, json.dumps(form, sort_keys=True), sizes, str(next(half.parameters()).dtype)),
        *(torch.__version__, str(torch.get_num_threads()), json.dumps(processor(), sort_keys=True, default=str)),
        _source(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@cache
def _source() -> str:
    """Return a digest of this package's code that programs may be made of."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in OTHERS:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def programs_folder() -> Path:
    """Return the folder of compiled programs, made if need be: XDG_CACHE_HOME/maskrcnn/programs, or under ~/.cache.

    What lies there is code that will be run, so it must be nobody else's to write to.

    Raises:
        WriteError: it cannot be made, or belongs to or can be written by somebody else.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "maskrcnn" / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as e:
        raise WriteError(f"Cannot make {folder}, where compiled programs are kept: {e.strerror}.") from None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise WriteError(
            f"{folder} belongs to or can be written by another user, and the programs in it would be run. "
            f"Remove it, or: chmod 700 {folder}"
        )
    return folder


def _forget_oldest(folder: Path) -> None:
    """Delete the programs that were not used for longest, all but `KEPT`."""
    places = sorted((p for p in folder.iterdir() if (p / PROGRAM).exists()), key=lambda p: p.stat().st_mtime)
    for place in places[:-KEPT]:
        shutil.rmtree(place, ignore_errors=True)
