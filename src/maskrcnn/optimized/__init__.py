"""The same network, faster: norms folded, channels last, bfloat16 where the processor has it, compiled once."""

from __future__ import annotations

from maskrcnn.optimized.build import optimize
from maskrcnn.optimized.cpu import OptimizedModel

__all__ = ["OptimizedModel", "optimize"]
