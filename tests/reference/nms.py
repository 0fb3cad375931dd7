"""Greedy non-maximum suppression: take the best box that is left, drop what it overlaps, repeat."""

from __future__ import annotations

import numpy as np


def greedy(boxes: np.ndarray, valid: np.ndarray, threshold: float, groups: np.ndarray | None = None) -> np.ndarray:
    """Boxes of one row, best first. In the boxes' own precision, so that ties with the threshold agree."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = valid.copy()
    kept = np.zeros(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if not left[i]:
            continue
        kept[i] = True
        width = np.minimum(boxes[:, 2], boxes[i, 2]) - np.maximum(boxes[:, 0], boxes[i, 0])
        height = np.minimum(boxes[:, 3], boxes[i, 3]) - np.maximum(boxes[:, 1], boxes[i, 1])
        common = width.clip(min=0) * height.clip(min=0)
        union = area + area[i] - common
        overlaps = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        same_group = np.ones(len(boxes), dtype=bool) if groups is None else groups == groups[i]
        left &= ~((overlaps > boxes.dtype.type(threshold)) & same_group)
    return kept
