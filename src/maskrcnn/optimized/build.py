"""Making a network fast on the machine at hand."""

from __future__ import annotations

import logging

import torch

from maskrcnn.devices import compiler_missing
from maskrcnn.export.graph import Sizes, choose_sizes, with_norms_folded
from maskrcnn.model import MaskRCNN
from maskrcnn.optimized.cpu import Half, OptimizedModel
from maskrcnn.optimized.cuda import CudaModel, optimize_for_cuda
from maskrcnn.optimized.halves import FirstHalf, SecondHalf
from maskrcnn.optimized.precision import POLICY, choose_dtype

logger = logging.getLogger("maskrcnn")
NOTE = {"note": True}
TRACED = (256, 320)
"""Least height and width, in pixels, of the images that the network is traced with."""


def optimize(model: MaskRCNN, dtype: str = "auto", compile: bool = True) -> OptimizedModel | CudaModel:
    """Return a copy of the network for fast inference on a CPU or a CUDA GPU; see `MaskRCNN.optimize`."""
    if model.device.type == "cuda":
        return optimize_for_cuda(model, dtype, compile)
    config = model.config
    wanted = choose_dtype(dtype, model.device)
    fast = with_norms_folded(model).to("cpu", wanted, memory_format=torch.channels_last)  # type: ignore[call-overload]
    divisor = config.image.size_divisor
    height, width = (-(-side // divisor) * divisor for side in TRACED)
    sizes = choose_sizes(config, batch=2, size=(height, width), dynamic="both")
    first, second = FirstHalf(fast), SecondHalf(fast)
    compiled = _compiled(first, second, sizes) if compile else None
    logger.warning("%s", POLICY[wanted], extra=NOTE)
    return OptimizedModel(config, (first, second), wanted, POLICY[wanted], compiled, sizes.least)


def _compiled(first: FirstHalf, second: SecondHalf, sizes: Sizes) -> tuple[Half, Half] | None:
    """Return both halves as compiled programs; None, with one warning, where they cannot be made."""
    reason = compiler_missing()
    if reason is None:
        from maskrcnn.optimized.programs import load_program

        try:
            return (
                load_program(first, lambda: first.sample(sizes), repr(sizes)),
                load_program(second, lambda: second.sample(sizes, first), repr(sizes)) if second.outputs else second,
            )
        except Exception as e:  # noqa: BLE001  # a compiler fails in many ways, and the network runs without it
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    logger.warning("The network is not compiled and runs eagerly, slower: %s", reason)
    return None
