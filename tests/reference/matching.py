"""Matching of boxes with ground truth, box by box (Faster R-CNN, section 3.1.2)."""

from __future__ import annotations

import numpy as np

from reference.boxes import iou


def match(
    boxes: np.ndarray, gt_boxes: np.ndarray, positive_iou: float, negative_iou: float, low_quality: bool
) -> tuple[list[int], list[bool], list[bool]]:
    """For each box its best ground truth, whether it is positive, and whether it is negative."""
    overlaps = iou(boxes, gt_boxes)
    best_of_gt = [max(overlaps[:, g], default=0.0) for g in range(len(gt_boxes))]
    matched, positive, negative = [], [], []
    for row in overlaps.tolist():
        best = max(row, default=0.0)
        claimed = any(o == b > 0 for o, b in zip(row, best_of_gt, strict=True))
        matched.append(row.index(best) if row else 0)
        positive.append(bool(row) and (best >= positive_iou or (low_quality and claimed)))
        negative.append(not positive[-1] and (not row or best < negative_iou))
    return matched, positive, negative
