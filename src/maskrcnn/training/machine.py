"""What the loop asks of the machine: devices, precision, and interrupts at the right moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from maskrcnn.devices import choose_device
from maskrcnn.errors import ConfigError, InputError
from maskrcnn.training.options import TrainOptions

EVALUATION_MAY_TAKE = timedelta(hours=12)
"""How long processes wait for the one that evaluates; the usual ten minutes are too short for a large data set."""


def accelerator(options: TrainOptions, device: str | None) -> Any:
    """Return an `Accelerator` for one device or, in processes that `accelerate launch` started, for theirs.

    Raises:
        ConfigError: the precision cannot be had there.
        InputError: there is no such device, or Accelerate is not installed.
    """
    try:
        from accelerate.accelerator import Accelerator
        from accelerate.utils.dataclasses import InitProcessGroupKwargs
    except ImportError:
        raise InputError('Training needs Accelerate: pip install "maskrcnn[train]"') from None
    chosen = choose_device(device)
    if options.precision == "fp16" and chosen.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU take bf16 or fp32.")
    precision = {"fp32": "no"}.get(options.precision, options.precision)
    _forget_earlier(precision, chosen)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    try:
        patience = InitProcessGroupKwargs(timeout=EVALUATION_MAY_TAKE)
        return Accelerator(cpu=chosen.type == "cpu", mixed_precision=precision, kwargs_handlers=[patience])
    except ValueError as e:
        raise ConfigError(f"precision {options.precision} cannot be had here: {e}") from None


def _forget_earlier(precision: str, device: torch.device) -> None:
    """Let another run in this process have another precision or device, which Accelerate keeps for good."""
    from accelerate.state import AcceleratorState, PartialState

    state = AcceleratorState._shared_state
    if not state:
        return
    place: Any = PartialState()
    differs = state.get("_mixed_precision") != precision or place.device.type != device.type
    if place.num_processes == 1 and differs:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let an interrupt (Ctrl-C) through only after the block, so that it cannot leave half a step."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set, and gets, signals
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def memory_layout(device: torch.device) -> torch.memory_format:
    """Return how weights and images lie in memory while training: on a GPU channels last, as convolutions want them.

    Not on a CPU: there PyTorch's gradient of convolutions with few channels writes where it must not (seen with
    PyTorch 2.13, float32 and bfloat16, on a processor with AVX-512).

    Example:
        >>> memory_layout(torch.device("cpu"))
        torch.contiguous_format
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


WRAPPING = ("forward", "_original_forward")
"""What Accelerate lays over a model's forward for mixed precision."""


def unwrap(model: nn.Module) -> dict[str, Any]:
    """Take off what Accelerate put around the model's forward, and return it."""
    return {name: vars(model).pop(name) for name in WRAPPING if name in vars(model)}


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[None]:
    """Let the model run in full precision inside the block."""
    wrapping = unwrap(model)
    try:
        yield
    finally:
        vars(model).update(wrapping)
