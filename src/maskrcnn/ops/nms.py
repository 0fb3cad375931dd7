"""Greedy non-maximum suppression with fixed shapes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops import stand_ins
from maskrcnn.ops.triton import usable

BLOCK = 1024
"""Boxes of each row that the eager path settles at a time; bounds its memory when all boxes are alike."""


def nms(
    boxes: Float[Tensor, "B R 4"],
    valid: Bool[Tensor, "B R"],
    threshold: float,
    groups: Int64[Tensor, "B R"] | None = None,
    enough: int | None = None,
) -> Bool[Tensor, "B R"]:
    """Return which boxes greedy NMS keeps, separately for each of the B rows.

    Boxes must come best first. Going down the list, a valid box is kept unless a kept one before it (of the
    same group, where groups are given) overlaps it with IoU above `threshold`. The answer is exact; but of a row
    that has kept `enough`, which are its best, an eager CPU leaves out the rest.

    Example:
        >>> row = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]])
        >>> nms(row, torch.ones(1, 3, dtype=torch.bool), threshold=0.5)
        tensor([[ True, False,  True]])
    """
    if stand_ins.exporting():
        return stand_ins.nms(boxes, valid, threshold, groups, enough)
    if usable(boxes, boxes):
        from maskrcnn.ops.triton.nms import nms as twin

        return twin(boxes, valid, threshold, groups)
    if torch.compiler.is_compiling() or boxes.device.type != "cpu":
        return _greedy(_suppresses(boxes, threshold, groups), valid)
    return sweep(boxes, valid, threshold, groups, enough)


def _suppresses(
    boxes: Float[Tensor, "B R 4"], threshold: float, groups: Int64[Tensor, "B R"] | None
) -> Bool[Tensor, "B R R"]:
    """Return whether box r, if kept, suppresses the worse box q."""
    overlaps = (box_ops.iou(boxes, boxes) > threshold).triu(1)
    if groups is None:
        return overlaps
    return overlaps.logical_and_(groups[:, :, None] == groups[:, None, :])


def _greedy(suppresses: Bool[Tensor, "B R R"], valid: Bool[Tensor, "B R"]) -> Bool[Tensor, "B R"]:
    """Return the greedy choice, given who suppresses whom (upper triangle: the better suppresses the worse).

    A box is kept if no kept box suppresses it. Evaluating that rule again and again from "all are kept"
    settles the best box in the first round and at least one more in every round, so a round that
    changes nothing has reached the greedy answer; chains of suppression are short and so is the loop.
    """

    def unsettled(keep: Tensor, before: Tensor) -> Tensor:
        return (keep != before).any()

    def settle(keep: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return valid & ~(suppresses & keep[:, :, None]).any(1), keep.clone()

    keep, before = valid.clone(), ~valid
    if torch.compiler.is_compiling():
        keep, _ = torch.while_loop(unsettled, settle, (keep, before))  # type: ignore[no-untyped-call]
        return keep
    while unsettled(keep, before):
        keep, before = settle(keep, before)
    return keep


def sweep(
    boxes: Float[Tensor, "B R 4"],
    valid: Bool[Tensor, "B R"],
    threshold: float,
    groups: Int64[Tensor, "B R"] | None,
    enough: int | None = None,
) -> Bool[Tensor, "B R"]:
    """Do the same with IoU computed only for pairs of boxes that are close to each other."""
    rows = torch.arange(len(boxes), device=boxes.device)[:, None].expand(valid.shape)
    segments = rows if groups is None else rows * (groups.max() + 1) + groups if groups.numel() else rows
    keep = torch.zeros_like(valid)
    for start in range(0, valid.shape[1], BLOCK):
        new = valid[:, start : start + BLOCK]
        if enough is not None:
            new = new & (keep.sum(1, keepdim=True) < enough)
        if not new.any():
            continue
        keep[:, start : start + BLOCK] = new
        considered = keep.nonzero(as_tuple=True)  # those kept so far and the new ones, row by row, best first
        settled = considered[1] < start
        better, worse = _overlapping_pairs(boxes[considered], segments[considered], threshold)
        kept = torch.ones_like(settled)
        while True:  # the rule of _greedy, on a list of pairs instead of a matrix
            suppressed = torch.zeros_like(settled)
            suppressed[worse[kept[better]]] = True
            now = settled | ~suppressed
            if torch.equal(now, kept):
                break
            kept = now
        keep[considered] = kept
    return keep


def _overlapping_pairs(
    boxes: Float[Tensor, "R 4"], segments: Int64[Tensor, " R"], threshold: float
) -> tuple[Int64[Tensor, " E"], Int64[Tensor, " E"]]:
    """Return (better, worse) indices of all pairs within a segment whose IoU exceeds `threshold`.

    IoU is at most that of the boxes' extents along one axis, and this needs centres nearer than
    (side_i + side_j) / 2 · (1 − t) / (1 + t), where neither side is longer than the other's t-th part.
    So of the boxes in the order of their centres in x, each can meet a short run of those after it, and among
    these only what is near in y as well.
    """
    bound = max(threshold - 1e-6, 1e-6)  # IoU is rounded, too
    centre, side = ((boxes[:, 2:] + boxes[:, :2].double()) / 2).unbind(1), (boxes[:, 2:] - boxes[:, :2]).double()
    side = side.clamp(min=0) * ((1 - bound) / (1 + bound) / 2 * 1.0001)
    width, height = side.unbind(1)
    widest = width.max() if len(boxes) else 0.0
    stride = boxes[:, 2].max() - boxes[:, 0].min() + 1 if len(boxes) else 1.0
    position, order = (centre[0] + segments * (2 * stride)).sort()
    reach = (width + (width / bound).clamp(max=widest))[order] + 1e-3
    after = torch.arange(1, len(boxes) + 1, device=boxes.device, dtype=torch.int32)
    runs = torch.searchsorted(position, position + reach, right=True, out_int32=True) - after
    first = torch.repeat_interleave(runs)
    begin = after - (runs.cumsum(0, dtype=torch.int32) - runs)
    second = torch.arange(len(first), device=boxes.device, dtype=torch.int32) + begin.index_select(0, first)
    y, height = centre[1].index_select(0, order), height.index_select(0, order)
    distance = (y.index_select(0, first) - y.index_select(0, second)).abs_()
    near = (distance <= height.index_select(0, first) + height.index_select(0, second) + 1e-3).nonzero()[:, 0]
    first, second = (order.index_select(0, pair.index_select(0, near)) for pair in (first, second))
    one, other = (boxes.index_select(0, pair)[:, None] for pair in (first, second))
    over = (box_ops.iou(one, other)[:, 0, 0] > threshold).nonzero()[:, 0]
    first, second = first.index_select(0, over), second.index_select(0, over)
    return torch.minimum(first, second), torch.maximum(first, second)
