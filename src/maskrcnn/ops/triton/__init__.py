"""Triton twins of functions that would be slow in plain PyTorch on a GPU, or would make it wait for the host.

Each twin is one custom operator, so `torch.compile` takes it as it is. The PyTorch functions remain the reference:
they run everywhere else, and on a GPU too where Triton is missing or cannot build what it starts kernels with, or the
environment variable MASKRCNN_TRITON is 0 when the package is imported. Nothing here imports Triton before a twin is
used.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

ENABLED = os.environ.get("MASKRCNN_TRITON", "1") != "0" and importlib.util.find_spec("triton") is not None
"""Whether Triton is installed and not turned off."""

logger = logging.getLogger("maskrcnn")

_found: list[bool] = []
"""Whether Triton can start kernels here, once it has been tried."""

DEVICES = ("cuda", "cpu")
"""Where operators run; on a CPU under Triton's interpreter, for tests."""

LAUNCH = {"enable_fp_fusion": False}
"""Options of every launch: each operation is rounded by itself, as PyTorch's are; no fused multiply-add."""


def define(name: str, schema: str) -> str:
    """Declare the operator `maskrcnn_triton::name`, and return that; what it does is registered by the caller.

    Unlike `torch.library.custom_op` this needs no compiler, whose import takes seconds.
    """
    operator = f"maskrcnn_triton::{name}"
    torch.library.define(operator, schema, tags=torch.Tag.pt2_compliant_tag)
    return operator


def usable(values: Tensor, boxes: Tensor) -> bool:
    """Return whether a twin takes these tensors; the one rule by which PyTorch or Triton is chosen.

    Both must be on a CUDA device, boxes in float32, values in float32, float16 or bfloat16. What is exported is
    always plain PyTorch, which other programs can run.

    Example:
        >>> usable(torch.zeros(3), torch.zeros(1, 4))  # on a CPU
        False
    """
    if not ENABLED or not _fits(values, boxes) or torch.compiler.is_exporting():
        return False
    return _found != [False] if torch.compiler.is_compiling() else can_start()


def can_start() -> bool:
    """Return whether Triton can start kernels on the GPU here; where it cannot, a warning says once why.

    It builds a small library for that, with a C compiler and Python's headers. Whoever compiles a program that may have
    twins in it asks first, since nothing can be tried while `torch.compile` reads the code.
    """
    if not _found:
        try:
            _driver()
            _found.append(True)
        except Exception as e:  # noqa: BLE001  # a compiler that is missing, headers, a driver
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
            logger.warning(
                "Triton's kernels are not used, and the GPU runs slower: %s. They need a C compiler and Python's "
                "headers (on Debian and Ubuntu: apt install gcc python3-dev).",
                reason.rstrip("."),
            )
            _found.append(False)
    return _found[0]


def _driver() -> Any:
    """Build and load what Triton starts kernels with."""
    return importlib.import_module("triton.runtime").driver.active.get_current_target()


def _fits(values: Tensor, boxes: Tensor) -> bool:
    on_gpu = values.device.type == boxes.device.type == "cuda"
    return on_gpu and boxes.dtype == torch.float32 and values.dtype in (torch.float32, torch.float16, torch.bfloat16)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which kernels are launched on the tensor's own device, one of several perhaps."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
