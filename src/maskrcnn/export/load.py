"""Exported networks of any format, ready to predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
        device: cpu (the default), cuda or cuda:1 … for .onnx; a .pt2 file runs where it was exported for.
        trust: allows compiled .pt2 files, which are native code, and programs of unknown operators.

    Raises:
        InputError: the ending is another, a package is missing, or the device cannot be had.
        CheckpointError: the file is damaged or another program's.
    """
    suffix = Path(path).suffix.lower()
    wanted = None if device is None else _parsed(device)
    if suffix == ".onnx":
        from maskrcnn.export.onnx.runtime import load_onnx

        return load_onnx(path, providers=_providers(wanted))
    if suffix == ".pt2":
        from maskrcnn.export.pt2_model import load_pt2

        model = load_pt2(path, trust)
        if wanted is not None and (wanted.type != model.device.type or wanted.index not in (None, model.device.index)):
            raise InputError(
                f"{path} was exported for {model.device}, and runs there alone; leave out --device {device}, or export "
                "it anew."
            )
        return model
    raise InputError(f"{path} is no exported network: these end in {' or '.join(EXPORTED)}.")


def _parsed(device: str) -> torch.device:
    """Return a device by its name, of those that exported networks run on."""
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InputError(f"An exported network runs on cpu or cuda; got the device {device!r}.")
    return found


def _providers(device: torch.device | None) -> list[Any] | None:
    """Return what ONNX Runtime calls a device."""
    if device is None or device.type == "cpu":
        return None
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
