"""Exported networks of any format, ready to predict."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.errors import InputError
from maskrcnn.prediction import Predictor

EXPORTED = (".onnx", ".pt2")
"""Endings of exported networks."""


def is_exported(path: str | Path) -> bool:
    """Return whether a file's name is that of an exported network.

    Example:
        >>> is_exported("model.onnx"), is_exported("best.safetensors")
        (True, False)
    """
    return Path(path).suffix.lower() in EXPORTED


def load_exported(path: str | Path, device: str | None = None, trust: bool = False) -> Predictor:
    """Return the network of a file that `maskrcnn export` wrote: .onnx or .pt2.

    Args:
        path: of the file.
        device: cpu or cuda for .onnx; a .pt2 file runs where it was exported for.
        trust: allows compiled .pt2 files, which are native code, and programs of unknown operators.

    Raises:
        InputError: the ending is another, a package is missing, or the device cannot be had.
        CheckpointError: the file is damaged or another program's.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        from maskrcnn.export.onnx.runtime import load_onnx

        on_gpu = device is not None and device.startswith("cuda")
        return load_onnx(path, providers=["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else None)
    if suffix == ".pt2":
        from maskrcnn.export.pt2_model import load_pt2

        return load_pt2(path, trust)
    raise InputError(f"{path} is no exported network: these end in {' or '.join(EXPORTED)}.")
