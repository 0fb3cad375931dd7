"""What may be asked of an ONNX file, and what ranges there are; needs no package beside PyTorch."""

from __future__ import annotations

from typing import Literal

from maskrcnn.errors import InputError

OLDEST_OPSET, NEWEST_OPSET, DEFAULT_OPSET = 18, 21, 18
"""Versions of ONNX's operators. The oldest is read by most programs; ONNX Runtime has no RoiAlign newer than the
newest."""

Precision = Literal["float32", "fp16", "int8"]
"""What convolutions and matrix products are computed in; boxes, scores and RoIs are float32 in all."""


def check_opset(opset: int) -> None:
    """Raise `InputError` for a version of ONNX's operators that the network cannot be written in, or not be run."""
    if opset < OLDEST_OPSET:
        raise InputError(f"Opset {opset} is too old: the network needs {OLDEST_OPSET} or more; got --opset {opset}.")
    if opset > NEWEST_OPSET:
        raise InputError(f"Opset {opset} is too new: ONNX Runtime has RoiAlign up to {NEWEST_OPSET} alone.")
