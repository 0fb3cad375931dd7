"""The training loop and what surrounds it."""

from __future__ import annotations

from maskrcnn.training.loop import TrainResult, train
from maskrcnn.training.options import TrainOptions

__all__ = ["TrainOptions", "TrainResult", "train"]
