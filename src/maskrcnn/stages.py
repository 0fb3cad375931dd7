"""Names for the tensors that flow through the network.

Every step of the forward pass passes its result through `stage(name, tensor)`. Normally that returns the
tensor and nothing else happens; inside `with recording() as tensors:` each is also kept under its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_recorder: dict[str, Tensor] | None = None


def stage(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` unchanged; keep it under `name` if a recording is under way."""
    if _recorder is not None:
        _recorder[name] = tensor
    return tensor


def is_recording() -> bool:
    """Return whether somebody asks for stages, so that what only they need can be computed."""
    return _recorder is not None


@contextmanager
def recording() -> Iterator[dict[str, Tensor]]:
    """Collect the stages in the order in which they come about.

    Example:
        >>> import torch
        >>> with recording() as tensors:
        ...     _ = stage("p2", torch.zeros(1, 256, 8, 8))
        >>> list(tensors)
        ['p2']
    """
    global _recorder  # noqa: PLW0603  # compilers read a plain global; a context variable they do not
    before, _recorder = _recorder, {}
    try:
        yield _recorder
    finally:
        _recorder = before
