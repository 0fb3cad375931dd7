"""Keypoints: the positions a keypoint head learns, and reading its heatmaps (Mask R-CNN, section 5)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

MOST_PIXELS = 1 << 24
"""Pixels of enlarged heatmaps that are held at a time, 64 MiB of float32; one heatmap is never cut."""


def heatmap_targets(
    keypoints: Float[Tensor, "R Kp 3"], boxes: Float[Tensor, "R 4"], size: int
) -> tuple[Int64[Tensor, "R Kp"], Bool[Tensor, "R Kp"]]:
    """Return which of the size² cells of each box holds each keypoint (row · size + column), and which are valid.

    A keypoint counts where it is labelled (visibility over 0) and lies in the box, borders included. Boxes and
    keypoints (x, y, visibility) are in the same frame.

    Example:
        >>> box, nose = torch.tensor([[0.0, 0.0, 8.0, 4.0]]), torch.tensor([[[5.0, 1.0, 2.0]]])
        >>> heatmap_targets(nose, box, size=4)  # column 2, row 1
        (tensor([[6]]), tensor([[True]]))
    """
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    points = keypoints[..., :2]
    cell = ((points - start) * (size / (end - start).clamp(min=1e-6))).floor()
    cell = torch.where(points == end, size - 1.0, cell)
    inside = ((cell >= 0) & (cell < size)).all(-1)
    cell = cell.clamp(0, size - 1).long()
    return cell[..., 1] * size + cell[..., 0], inside & (keypoints[..., 2] > 0)


def read_heatmaps(
    heatmaps: Float[Tensor, "D Kp S S"], boxes: Float[Tensor, "D 4"], scores: Literal["logit", "softmax"] = "logit"
) -> Float[Tensor, "D Kp 3"]:
    """Return (x, y, score) of every keypoint, in the frame of the boxes.

    Each heatmap is enlarged (bicubic) to its box, rounded up to whole pixels and at least one, and its highest
    pixel's centre is the keypoint. Of a large box few heatmaps are enlarged at a time, so that memory is bounded by the
    box and not by the number of keypoints.

    Args:
        heatmaps: logits.
        boxes: the detections they belong to.
        scores: `logit` is the enlarged map's value there; `softmax` its share, e^value over the sum of e^logit of
            the map before enlarging, so that boxes of all sizes compare.
    """
    starts = boxes[:, :2]
    sides = (boxes[:, 2:] - starts).clamp(min=1)
    found = heatmaps.new_zeros(*heatmaps.shape[:2], 3)
    for d, (heatmap, (width, height)) in enumerate(zip(heatmaps, sides.ceil().long().tolist(), strict=True)):
        parts = heatmap.split(max(MOST_PIXELS // (height * width), 1))
        highest = [_highest(part, (height, width)) for part in parts]
        best, place = (torch.cat(of_parts) for of_parts in zip(*highest, strict=True))
        pixel = torch.stack((place % width, place // width), dim=1).to(heatmaps.dtype)
        whole = torch.tensor([width, height], dtype=heatmaps.dtype, device=heatmaps.device)
        found[d, :, :2] = (pixel + 0.5) * (sides[d] / whole) + starts[d]
        found[d, :, 2] = best if scores == "logit" else (best - heatmap.flatten(1).logsumexp(1)).exp()
    return found


def _highest(
    heatmaps: Float[Tensor, "Kp S S"], size: tuple[int, int]
) -> tuple[Float[Tensor, " Kp"], Int64[Tensor, " Kp"]]:
    """Return the highest value of each heatmap enlarged to (height, width), and its place, row · width + column."""
    enlarged = F.interpolate(heatmaps[None], size=size, mode="bicubic", align_corners=False)[0]
    best, place = enlarged.flatten(1).max(dim=1)
    return best, place
