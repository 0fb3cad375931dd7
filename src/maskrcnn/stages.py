"""Names for the tensors that flow through the network.

Every step of the forward pass passes its result through `stage(name, tensor)`. Normally that returns the
tensor and nothing else happens; inside `with recording() as tensors:` each is also kept under its name.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from torch import Tensor

_recorder: MutableMapping[str, Tensor] | None = None
_all_slots = False


def stage(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` unchanged; keep it under `name` if a recording is under way."""
    if _recorder is not None:
        _recorder[name] = tensor
    return tensor


def is_recording() -> bool:
    """Return whether somebody asks for stages, so that what only they need can be computed."""
    return _recorder is not None


def records_all_slots() -> bool:
    """Return whether a recording is under way that wants every slot of detections, those without one too."""
    return _all_slots


@contextmanager
def recording(
    into: MutableMapping[str, Tensor] | None = None, all_slots: bool = True
) -> Iterator[MutableMapping[str, Tensor]]:
    """Collect the stages in the order in which they come about.

    Args:
        into: what receives each tensor under its name, for those who want to do more than keep it; a dict by
            default. It must not change the tensor.
        all_slots: run the mask head on all slots of detections, so that its stages have one shape whatever the
            image, and keep the masks of all classes. False leaves the run as it is without a recording: on a CPU
            with fewer slots, and with the mask of each detection's own class alone.

    Example:
        >>> import torch
        >>> with recording() as tensors:
        ...     _ = stage("p2", torch.zeros(1, 256, 8, 8))
        >>> list(tensors)
        ['p2']
    """
    global _recorder, _all_slots  # compilers read a plain global; a context variable they do not
    kept: MutableMapping[str, Tensor] = {} if into is None else into
    before, _recorder, _all_slots = (_recorder, _all_slots), kept, all_slots
    try:
        yield kept
    finally:
        _recorder, _all_slots = before
