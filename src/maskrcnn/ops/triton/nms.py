# mypy: disable-error-code="misc, untyped-decorator, import-untyped, import-not-found"
"""Greedy non-maximum suppression in two kernels: who overlaps whom, as bits; then down the list."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.ops.triton import DEVICES, LAUNCH, define, on_device_of

WORD = 64
"""Boxes in a word of bits."""


def nms(
    boxes: Float[Tensor, "B R 4"],
    valid: Bool[Tensor, "B R"],
    threshold: float,
    groups: Int64[Tensor, "B R"] | None = None,
) -> Bool[Tensor, "B R"]:
    """Return which boxes greedy NMS keeps; the twin of `ops.nms.nms`, with the same answer bit for bit.

    IoU is that of `ops.boxes.iou`, operation by operation in float32. It is held as one bit for each pair of boxes,
    R² / 8 bytes for each of the B rows.
    """
    keep: Tensor = torch.ops.maskrcnn_triton.nms(boxes, valid, groups, threshold)
    return keep


_NMS = define("nms", "(Tensor boxes, Tensor valid, Tensor? groups, float threshold) -> Tensor")


@torch.library.impl(_NMS, DEVICES)
def _nms(boxes: Tensor, valid: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    rows, count = valid.shape
    keep = torch.empty_like(valid, memory_format=torch.contiguous_format)
    if not keep.numel():
        return keep
    boxes, valid = boxes.contiguous(), valid.contiguous()
    segments = valid if groups is None else groups.contiguous()
    words = triton.cdiv(count, WORD)
    overlaps = torch.empty(rows, count, words, dtype=torch.int64, device=boxes.device)
    padded = triton.next_power_of_2(words)
    with on_device_of(boxes):
        _overlap_bits[(words, words, rows)](
            boxes, segments, overlaps, threshold, count, words, groups is not None, WORD, num_warps=4, **LAUNCH
        )
        _go_down_the_list[(rows,)](
            overlaps,
            valid.view(torch.uint8),
            keep.view(torch.uint8),
            count,
            words,
            padded,
            WORD,
            num_warps=min(max(padded // 32, 1), 8),
            **LAUNCH,
        )
    return keep


@torch.library.register_fake(_NMS)
def _(boxes: Tensor, valid: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    return torch.empty_like(valid, memory_format=torch.contiguous_format)


@triton.jit(do_not_specialize=["count", "words"])
@no_type_check
def _overlap_bits(boxes, segments, overlaps, threshold, count, words, GROUPED: tl.constexpr, WORD: tl.constexpr):
    """Write, for 64 boxes and the 64 of one word, who suppresses whom: bit j of box i's word.

    Words before box i's own are not written, since only worse boxes are suppressed; nobody reads them.
    """
    block, word, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if word >= block:
        i = block * WORD + tl.arange(0, WORD)
        j = word * WORD + tl.arange(0, WORD)
        one, other = boxes + (row * count + i) * 4, boxes + (row * count + j) * 4
        x1, x2 = tl.load(one, mask=i < count, other=0.0), tl.load(one + 2, mask=i < count, other=0.0)
        y1, y2 = tl.load(one + 1, mask=i < count, other=0.0), tl.load(one + 3, mask=i < count, other=0.0)
        u1, u2 = tl.load(other, mask=j < count, other=0.0), tl.load(other + 2, mask=j < count, other=0.0)
        v1, v2 = tl.load(other + 1, mask=j < count, other=0.0), tl.load(other + 3, mask=j < count, other=0.0)
        area, area_j = (x2 - x1) * (y2 - y1), (u2 - u1) * (v2 - v1)
        across = tl.minimum(x2[:, None], u2[None, :]) - tl.maximum(x1[:, None], u1[None, :])
        down = tl.minimum(y2[:, None], v2[None, :]) - tl.maximum(y1[:, None], v1[None, :])
        # Where a coordinate is NaN so is the union, whatever became of it on the way here: no overlap.
        intersection = tl.where(across < 0, 0.0, across) * tl.where(down < 0, 0.0, down)
        union = area[:, None] + area_j[None, :] - intersection
        union = tl.where(union < 1.1754943508222875e-38, 1.1754943508222875e-38, union)
        over = (tl.div_rn(intersection, union) > threshold) & (i[:, None] < j[None, :])
        if GROUPED:
            group = tl.load(segments + row * count + i, mask=i < count, other=0)
            group_j = tl.load(segments + row * count + j, mask=j < count, other=0)
            over = over & (group[:, None] == group_j[None, :])
        bit = tl.full([WORD], 1, tl.int64) << tl.arange(0, WORD).to(tl.int64)
        bits = tl.sum(tl.where(over, bit[None, :], 0), axis=1)
        tl.store(overlaps + (row * count + i) * words + word, bits, mask=i < count)


@triton.jit(do_not_specialize=["count", "words"])
@no_type_check
def _go_down_the_list(overlaps, valid, keep, count, words, PADDED: tl.constexpr, WORD: tl.constexpr):
    """Settle one row of boxes, a word at a time: first its 64 boxes among themselves, then what they suppress later."""
    row = tl.program_id(0).to(tl.int64)
    overlaps += row * count * words
    valid += row * count
    keep += row * count
    later = tl.arange(0, PADDED)
    lane = tl.arange(0, WORD)
    bit = tl.full([WORD], 1, tl.int64) << lane.to(tl.int64)
    suppressed = tl.zeros([PADDED], tl.int64)
    for word in range(words):
        first = word * WORD
        there = tl.load(valid + first + lane, mask=first + lane < count, other=0) != 0
        gone = ~tl.sum(tl.where(there, bit, 0), axis=0) | tl.sum(tl.where(later == word, suppressed, 0), axis=0)
        line = overlaps + first * words
        for r in tl.static_range(WORD):
            bits = tl.load(line + r * words + word, mask=first + r < count, other=0)
            gone |= tl.where(((gone >> r) & 1) == 0, bits, 0)
        for r in tl.static_range(WORD):
            kept = ((gone >> r) & 1) == 0
            wanted = (later > word) & (later < words) & kept
            suppressed |= tl.load(line + r * words + later, mask=wanted, other=0)
        tl.store(keep + first + lane, ((~gone >> lane.to(tl.int64)) & 1).to(tl.uint8), mask=first + lane < count)
