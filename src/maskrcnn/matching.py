"""Which boxes learn what: matching with ground truth, and drawing a balanced sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.config import MatchingConfig
from maskrcnn.ops import boxes as box_ops


class Matches(NamedTuple):
    """For each box its best ground truth, and whether it is positive, negative or neither (left out)."""

    matched_gt: Int64[Tensor, "N R"]
    positive: Bool[Tensor, "N R"]
    negative: Bool[Tensor, "N R"]


class Sample(NamedTuple):
    """Drawn boxes, positives first; slots that nothing was drawn for are not `valid`."""

    chosen: Int64[Tensor, "N S"]
    positive: Bool[Tensor, "N S"]
    valid: Bool[Tensor, "N S"]


def match(
    boxes: Float[Tensor, "N R 4"],
    valid: Bool[Tensor, "N R"],
    gt_boxes: Float[Tensor, "N G 4"],
    gt_valid: Bool[Tensor, "N G"],
    config: MatchingConfig,
) -> Matches:
    """Match boxes with ground truth by IoU (Faster R-CNN, section 3.1.2).

    Positive from `positive_iou` on, negative below `negative_iou`. With `low_quality_matches` so are all boxes
    that reach the best IoU of any ground truth, ties included; a ground truth that no box touches claims none.
    An image without ground truth makes every valid box negative.
    """
    overlaps = box_ops.iou(gt_boxes, boxes)  # [N, G, R]
    overlaps = overlaps.masked_fill_(~gt_valid[:, :, None], -1.0).masked_fill_(~valid[:, None, :], -1.0)
    best, matched = overlaps.max(dim=1)
    positive = best >= config.positive_iou
    if config.low_quality_matches:
        best_of_gt = overlaps.amax(dim=2, keepdim=True)
        positive = positive | ((overlaps == best_of_gt) & (best_of_gt > 0)).any(dim=1)
    negative = (best < config.negative_iou) & ~positive & valid
    return Matches(matched, positive & valid, negative)


def draw_sample(matches: Matches, config: MatchingConfig) -> Sample:
    """Draw up to samples_per_image boxes at random, at most positive_fraction of them positive.

    Negatives fill the places that positives leave (Faster R-CNN, section 3.1.3).
    """
    boxes = matches.positive.shape[1]
    size = min(config.samples_per_image, boxes)
    most_positive = min(int(config.samples_per_image * config.positive_fraction), size)
    lottery = torch.rand(matches.positive.shape, device=matches.positive.device)
    chance, positives = torch.where(matches.positive, lottery, -1.0).topk(max(most_positive, 1))
    num_positive = (chance >= 0).sum(1, keepdim=True).clamp(max=most_positive)
    chance, negatives = torch.where(matches.negative, lottery, -1.0).topk(size)
    num_negative = (chance >= 0).sum(1, keepdim=True)
    slot = torch.arange(size, device=lottery.device)[None]
    is_positive = slot < num_positive
    from_positives = positives.gather(1, slot.expand(len(lottery), -1).clamp(max=positives.shape[1] - 1))
    from_negatives = negatives.gather(1, (slot - num_positive).clamp(min=0))
    index = torch.where(is_positive, from_positives, from_negatives)
    return Sample(index, is_positive, slot < num_positive + num_negative)
