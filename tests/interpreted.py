"""Triton's kernels in tests: on a GPU where there is one, elsewhere on the CPU under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DEVICE.type == "cpu":
    if "triton" not in sys.modules:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import triton.language

    if type(triton.language.sum).__name__ != "InterpretedFunction":
        pytest.skip("Triton was imported before TRITON_INTERPRET=1 was set", allow_module_level=True)


def take_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package take Triton's kernels on the device that tests have."""
    from maskrcnn.ops import triton as twins

    monkeypatch.setattr(twins, "_fits", lambda values, boxes: boxes.dtype == torch.float32)
