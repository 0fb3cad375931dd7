"""Whether an exported network finds what the network finds that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.rle import RLE, rle_iou
from maskrcnn.structures import DetectionBatch, Detections

SAME_IOU, SAME_SCORE, SAME_MASK = 0.99, 1e-4, 0.01
"""Detections are the same from this IoU on, with scores and masks that differ by no more than this."""


class Agreement(NamedTuple):
    """How two runs on the same images compare."""

    detections: int
    """Found by either."""
    matched: int
    """Of these, found by both."""
    score_difference: float
    """The greatest between two that were matched."""
    mask_difference: float | None = None
    """The greatest of a probability in the masks, or heatmaps, of two that were matched; of pasted masks the share of
    pixels that only one has. None where there are none."""

    @property
    def holds(self) -> bool:
        """Whether both found the same."""
        same = self.matched == self.detections and self.score_difference <= SAME_SCORE
        return same and (self.mask_difference or 0.0) <= SAME_MASK

    @classmethod
    def of_all(cls, parts: Iterable[Agreement]) -> Agreement:
        """Return what several comparisons tell together."""
        total, matched, worst, masks = 0, 0, 0.0, None
        for part in parts:
            total, matched, worst = total + part.detections, matched + part.matched, max(worst, part.score_difference)
            masks = _worse(masks, part.mask_difference)
        return cls(total, matched, worst, masks)

    def __str__(self) -> str:
        if not self.detections:
            return "nothing to compare, since neither found anything"
        masks = "" if self.mask_difference is None else f", masks within {self.mask_difference:.1e}"
        return (
            f"{self.matched} of {self.detections} detections matched ({100 * self.matched / self.detections:.1f} %), "
            f"scores within {self.score_difference:.1e}{masks}"
        )


def _worse(one: float | None, other: float | None) -> float | None:
    """Return the greater of two differences, of which either may not be there."""
    return max((d for d in (one, other) if d is not None), default=None)


def agreement(one: DetectionBatch, other: DetectionBatch, threshold: float) -> Agreement:
    """Return how many detections have a twin: of the same image and class, with IoU above 0.99.

    A detection without area, which `predict` gives nobody, is not counted. Nor is one without a twin whose score is as
    near to what decides that it is kept as two runs may differ: `threshold`, or the least score of an image whose slots
    are all taken.
    """
    return Agreement.of_all(_agreement_on(one, other, n, threshold) for n in range(len(one.valid)))


def agreement_in_photo(one: Detections, other: Detections, threshold: float) -> Agreement:
    """Return the same of what two networks predict in a photo, with masks as run lengths."""
    a, b = ({f: getattr(found, f) for f in ("boxes", "labels", "scores")} for found in (one, other))
    return _agreement(a, b, True, threshold, _masks_apart(one.rles, other.rles))


def _agreement_on(one: DetectionBatch, other: DetectionBatch, n: int, threshold: float) -> Agreement:
    """Return how two runs compare on an image."""
    a, b = (_of_image(found, n) for found in (one, other))
    full = bool(one.valid[n].all() or other.valid[n].all())
    maps = [d for field in ("mask_logits", "keypoint_logits") if (d := _apart(a[field], b[field], field)) is not None]
    return _agreement(a, b, full, threshold, torch.stack(maps).amax(0) if maps else None)


def _agreement(
    a: dict[str, Tensor], b: dict[str, Tensor], full: bool, threshold: float, masks: Float[Tensor, "A B"] | None
) -> Agreement:
    """Return how two runs compare, given by how much the masks of all pairs differ."""
    pairs = _twins(a, b)
    edge = float(torch.cat((a["scores"], b["scores"])).min()) if full and pairs.numel() else threshold
    total, matched = 0, 0
    for side, has_twin in ((a, pairs.any(1)), (b, pairs.any(0))):
        total += int((has_twin | (side["scores"] > edge + SAME_SCORE)).sum())
        matched += int(has_twin.sum())
    if not pairs.any():
        return Agreement(total, matched, 0.0)
    scores = (a["scores"][:, None] - b["scores"][None]).abs()
    return Agreement(total, matched, _nearest(scores, pairs), None if masks is None else _nearest(masks, pairs))


def _nearest(differences: Float[Tensor, "A B"], pairs: Bool[Tensor, "A B"]) -> float:
    """Return the greatest difference of a detection from its twin, or of several the nearest."""
    return float(differences.masked_fill(~pairs, float("inf")).amin(1)[pairs.any(1)].max())


def _apart(a: Tensor, b: Tensor, field: str) -> Float[Tensor, "A B"] | None:
    """Return the greatest difference of a probability between all masks of two runs, or all heatmaps."""
    if not (a.numel() and b.numel()):
        return None
    probabilities = [x.float().sigmoid() if field == "mask_logits" else x.float().flatten(2).softmax(2) for x in (a, b)]
    first, second = (p.flatten(1) for p in probabilities)
    return torch.stack([(row - second).abs().amax(1) for row in first])


def _of_image(found: DetectionBatch, n: int) -> dict[str, Tensor]:
    """Return boxes, labels and scores of an image's detections that have an area."""
    chosen = found.valid[n] & box_ops.large_enough(found.boxes[n], 0.0)
    fields = ("boxes", "labels", "scores", "mask_logits", "keypoint_logits")
    return {field: getattr(found, field)[n][chosen] for field in fields}


def _twins(a: dict[str, Tensor], b: dict[str, Tensor]) -> Bool[Tensor, "A B"]:
    """Return which detections of two runs are the same object."""
    boxes: list[Float[Tensor, "_D 4"]] = [a["boxes"].float(), b["boxes"].float()]
    return (box_ops.iou(*boxes) > SAME_IOU) & (a["labels"][:, None] == b["labels"][None])


def _masks_apart(one: Sequence[RLE] | None, other: Sequence[RLE] | None) -> Float[Tensor, "A B"] | None:
    """Return the share of the pixels of two masks that only one has, for all pairs."""
    if not one or not other:
        return None
    return 1 - rle_iou(one, other)
