"""Which numbers an optimized network computes with, and how far its results are from those of the network as it is."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import torch

from maskrcnn.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]

POLICY = {
    torch.float32: "float32: what the network finds as it is, scores to 1e-4.",
    torch.bfloat16: "bfloat16: scores and boxes differ in the third digit, which costs at most 0.2 AP; "
    'dtype="float32" is exact.',
}
"""What is told of results, by type of the convolutions. Boxes, NMS and RoIAlign's positions are always float32."""


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the type to compute with; `auto` is bfloat16 where the processor multiplies it.

    Raises:
        InputError: there is no such choice.

    Example:
        >>> choose_dtype("float32", torch.device("cpu"))
        torch.float32
    """
    if wanted not in ("auto", "float32", "bfloat16"):
        raise InputError(f"dtype must be auto, float32 or bfloat16; got {wanted!r}.")
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions that multiply bfloat16: AVX512-BF16, AMX, or a GPU since Ampere."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = processor()
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def processor() -> dict[str, Any]:
    """Return what torch tells of the processor: its name and the instructions it has."""
    return dict(torch.cpu.get_capabilities())


def compiler_options(backend: Any = "inductor") -> dict[str, Any]:
    """Return the arguments of `torch.compile` by which programs for a GPU divide as PyTorch does, rounded once."""
    numerics = getattr(importlib.import_module("torch._inductor.config"), "eager_numerics", None)
    if backend != "inductor" or not hasattr(numerics, "division_rounding"):
        return {"backend": backend}
    return {"backend": backend, "options": {"eager_numerics.division_rounding": True}}
