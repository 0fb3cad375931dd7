"""A network optimized for a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.export.graph import as_detection_batch
from maskrcnn.heads.box import Found
from maskrcnn.prediction import Predictor
from maskrcnn.structures import DetectionBatch, ImageBatch

Half = Callable[..., tuple[Tensor, ...]]

ROUNDED = 8
"""Slots are run in multiples of this, so that the convolutions meet few shapes."""


class OptimizedModel(Predictor):
    """What `MaskRCNN.optimize` returns for a CPU: predicts as the network does, faster; made for inference alone.

    Its weights are a copy, so training the network afterwards does not change it.
    """

    def __init__(
        self,
        config: Config,
        eager: tuple[Half, Half],
        dtype: torch.dtype,
        policy: str,
        compiled: tuple[Half, Half] | None = None,
        least_side: int = 0,
    ) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.policy = policy
        """How far its results may be from those of the network as it is."""
        self._eager, self._compiled = eager, compiled
        self._least_side = least_side

    @property
    def compiled(self) -> bool:
        """Whether it runs as compiled programs; else, and for tiny images, it runs eagerly."""
        return self._compiled is not None

    def detect(self, images: ImageBatch) -> DetectionBatch:
        """Return what is found in prepared images; boxes in the input frame."""
        batch = ImageBatch.of(images, self.config.image)
        large = min(batch.tensor.shape[2:]) >= self._least_side
        first, second = self._compiled if self._compiled is not None and large else self._eager
        offsets = (batch.starts,) if self.config.image.padding_place == "center" else ()
        with torch.inference_mode():
            pixels = batch.tensor.to("cpu", self.dtype, memory_format=torch.channels_last)
            results = first(pixels, batch.sizes, *offsets)
            found, maps = Found(*results[: len(Found._fields)]), list(results[len(Found._fields) :])
            names = ["mask_logits"] * self.config.masks + ["keypoint_logits"] * bool(self.config.keypoint_names)
            rows = _rows(second, found, maps) if names else ()
        return as_detection_batch({**found._asdict(), **dict(zip(names, rows, strict=True))})


def _rows(second: Half, found: Found, maps: list[Tensor]) -> tuple[Float[Tensor, "N D *rest"], ...]:
    """Return masks and keypoints of the valid slots, which stand in front; 0 in the others."""
    slots = found.valid.shape[1]
    needed = max(int(found.valid.sum(1).max()), 1)
    run = min(-(-needed // ROUNDED) * ROUNDED, slots)
    valid = found.valid[:, :run]
    heads = second(found.boxes[:, :run].contiguous(), found.labels[:, :run].contiguous(), maps)
    return tuple(
        F.pad(
            torch.where(valid.reshape(*valid.shape, *[1] * (rows.dim() - 2)), rows, 0.0),
            (0, 0) * (rows.dim() - 2) + (0, slots - run),
        )
        for rows in heads
    )
