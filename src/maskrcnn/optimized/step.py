"""A training step as one compiled program forward and one backward, that waits for a GPU nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskrcnn.model import MaskRCNN
from maskrcnn.ops.triton import can_start
from maskrcnn.optimized.precision import compiler_options
from maskrcnn.structures import ImageBatch, Losses, TargetBatch

Step = Callable[[Tensor | ImageBatch, TargetBatch], Losses]
"""Trains on a batch and returns its losses, which stay on the device."""


def compiled_step(
    model: MaskRCNN,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype = torch.bfloat16,
    backend: Any = "inductor",
    compile: bool = True,
) -> Step:
    """Return a training step: forward, backward and `optimizer.step()`, the first two as compiled programs.

    On a GPU feature maps lie channels last from now on, in `model` itself. Weights stay float32; convolutions and
    products compute with `dtype`, by autocast. Nothing asks for a value: read the losses when they are wanted, for
    that waits. Take an optimizer with `fused=True` on a GPU, and batches of few sizes: each may be compiled anew.

    Args:
        model: in train mode, on its device.
        optimizer: of its parameters. Learning rates may be changed between steps.
        dtype: float32 or bfloat16; there is no loss scaling for float16.
        backend: of `torch.compile`.
        compile: False does the same eagerly.

    Example:
        >>> from maskrcnn import Config
        >>> from maskrcnn.memory import made_batch
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
        >>> optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        >>> step = compiled_step(model, optimizer, torch.float32, compile=False)
        >>> bool(step(*made_batch(model.config, 128, model.device)).total > 0)
        True
    """
    device = model.device.type
    if device == "cuda":  # on a CPU oneDNN's bfloat16 gradients of narrow layers write past their memory then
        can_start()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(images: Tensor | ImageBatch, targets: TargetBatch) -> tuple[Tensor, Losses]:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            losses = model(images, targets)
        return losses.total, losses

    program: Any = torch.compile(forward, fullgraph=True, **compiler_options(backend)) if compile else forward

    def step(images: Tensor | ImageBatch, targets: TargetBatch) -> Losses:
        total, losses = program(images, targets)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return Losses(*(loss.detach() for loss in losses))

    return step
