"""Recorded runs in tests, without CUDA."""

from __future__ import annotations

from torch import Tensor


class RunAgain:
    """Stands for a recorded run: does it again on what its inputs hold, and writes to the same outputs."""

    def __init__(self, run, inputs: tuple[Tensor, ...]) -> None:
        self._run, self._inputs = run, inputs
        self.outputs = tuple(t.clone() for t in run(*inputs))

    def replay(self) -> None:
        for kept, new in zip(self.outputs, self._run(*self._inputs), strict=True):
            kept.copy_(new)
