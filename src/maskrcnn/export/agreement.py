"""Whether an exported network finds what the network finds that it was made from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import DetectionBatch

SAME_IOU, SAME_SCORE = 0.99, 1e-4
"""Detections are the same from this IoU on, with scores that differ by no more than this."""


class Agreement(NamedTuple):
    """How two runs on the same images compare."""

    detections: int
    """Found by either."""
    matched: int
    """Of these, found by both."""
    score_difference: float
    """The greatest between two that were matched."""

    @property
    def holds(self) -> bool:
        """Whether both found the same."""
        return self.matched == self.detections and self.score_difference <= SAME_SCORE

    def __str__(self) -> str:
        share = 100 * self.matched / max(self.detections, 1)
        return (
            f"{self.matched} of {self.detections} detections matched ({share:.1f} %), scores within "
            f"{self.score_difference:.1e}"
        )


def agreement(one: DetectionBatch, other: DetectionBatch, threshold: float) -> Agreement:
    """Return how many detections have a twin: of the same image and class, with IoU above 0.99.

    A detection without area, which `predict` gives nobody, is not counted. Nor is one without a twin whose score is as
    near to what decides that it is kept as two runs may differ: `threshold`, or the least score of an image whose slots
    are all taken.
    """
    total, matched, worst = 0, 0, 0.0
    for n in range(len(one.valid)):
        a, b = (_of_image(found, n) for found in (one, other))
        pairs = _twins(a, b)
        full = bool(one.valid[n].all() or other.valid[n].all())
        edge = float(torch.cat((a["scores"], b["scores"])).min()) if full else threshold
        for side, has_twin in ((a, pairs.any(1)), (b, pairs.any(0))):
            total += int((has_twin | (side["scores"] > edge + SAME_SCORE)).sum())
            matched += int(has_twin.sum())
        if pairs.any():
            differences = (a["scores"][:, None] - b["scores"][None]).abs()
            nearest = differences.masked_fill(~pairs, float("inf")).amin(1)[pairs.any(1)]
            worst = max(worst, float(nearest.max()))
    return Agreement(total, matched, worst)


def _of_image(found: DetectionBatch, n: int) -> dict[str, Tensor]:
    """Return boxes, labels and scores of an image's detections that have an area."""
    chosen = found.valid[n] & box_ops.large_enough(found.boxes[n], 0.0)
    return {field: getattr(found, field)[n][chosen] for field in ("boxes", "labels", "scores")}


def _twins(a: dict[str, Tensor], b: dict[str, Tensor]) -> Bool[Tensor, "A B"]:
    """Return which detections of two runs are the same object."""
    boxes: list[Float[Tensor, "_D 4"]] = [a["boxes"].float(), b["boxes"].float()]
    return (box_ops.iou(*boxes) > SAME_IOU) & (a["labels"][:, None] == b["labels"][None])
