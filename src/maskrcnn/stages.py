"""Names for the tensors that flow through the network.

Every step of the forward pass passes its result through `stage(name, tensor)`. Normally that returns the
tensor and nothing else happens; inside `with recording() as tensors:` each is also kept under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

_recorder: dict[str, Tensor] | None = None
_wanted: Callable[[str], bool] = lambda name: True  # noqa: E731


def stage(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` unchanged; keep it under `name` if a recording is under way."""
    if _recorder is not None and _wanted(name):
        _recorder[name] = tensor
    return tensor


@contextmanager
def recording(wanted: Callable[[str], bool] = lambda name: True) -> Iterator[dict[str, Tensor]]:
    """Collect the stages whose names are `wanted`, in the order in which they come about.

    Example:
        >>> import torch
        >>> with recording() as tensors:
        ...     _ = stage("p2", torch.zeros(1, 256, 8, 8))
        >>> list(tensors)
        ['p2']
    """
    global _recorder, _wanted
    before = _recorder, _wanted
    _recorder, _wanted = {}, wanted
    try:
        yield _recorder
    finally:
        _recorder, _wanted = before
