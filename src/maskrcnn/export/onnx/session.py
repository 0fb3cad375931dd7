"""ONNX Runtime: opening a file, and running it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.errors import CheckpointError, InputError, os_reason, printable
from maskrcnn.export.onnx import check_packages


def open_session(path: str | Path, threads: int | None = None, providers: Sequence[Any] | None = None) -> Any:
    """Return ONNX Runtime's session of a file; see `load_onnx`."""
    check_packages(("onnxruntime",))
    onnxruntime: Any = import_module("onnxruntime")
    try:
        os.stat(path)
    except OSError as e:
        raise CheckpointError(f"Cannot read {os_reason(path, e)}.") from None
    known = onnxruntime.get_available_providers()
    wanted = list(providers or ["CPUExecutionProvider"])
    names = [each if isinstance(each, str) else each[0] for each in wanted]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"This onnxruntime has no {unknown[0]}; it has {', '.join(known)}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(os.path.realpath(path), options, providers=wanted)
    except Exception as e:  # noqa: BLE001 - it raises whatever it trips over
        text = " ".join(str(e).split())
        raise CheckpointError(f"{path} is damaged, or no ONNX file that can be run ({printable(text, 200)}).") from None


def run_session(session: Any, names: Sequence[str], feeds: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a graph's outputs by name, given its inputs as arrays.

    Raises:
        InputError: ONNX Runtime cannot run it on them.
    """
    try:
        found = session.run(names, feeds)
    except Exception as e:  # noqa: BLE001 - it raises whatever it trips over
        raise InputError(
            f"ONNX Runtime cannot run this file on it: {printable(' '.join(str(e).split()), 200)}."
        ) from None
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}
