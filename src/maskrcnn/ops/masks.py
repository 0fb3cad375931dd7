"""Masks: the targets a mask head learns from, and laying its answers on the photo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.ops import bilinear
from maskrcnn.ops.triton import usable

CHUNK, CHUNK_BYTES = 16, 1 << 30
"""RoIs whose full masks are held in float at a time on a CPU, and bytes of them on a GPU."""

BAND = 1 << 16
"""Pixels of a mask that are pasted at a time, so that they stay in the processor's cache."""

PasteRule: TypeAlias = Literal["continuous", "integer_box"]
"""How a box is laid on pixels, see `MaskHeadConfig.paste`."""


def crop_masks(
    masks: Bool[Tensor, "N G H W"],
    matched: Int64[Tensor, "N F"],
    boxes: Float[Tensor, "N F 4"],
    mask_size: int,
    aligned: bool,
) -> Float[Tensor, "NF M M"]:
    """Return, for each box, the share of every bin that its ground truth's mask covers.

    This is RoIAlign of the mask with adaptive sampling (Mask R-CNN, section 3.1: the target is the
    intersection of the RoI and its ground-truth mask). Boxes and masks are in the same frame.
    """
    image = torch.arange(len(boxes), device=boxes.device)[:, None].expand(matched.shape).reshape(-1)
    offset = 0.5 if aligned else 0.0
    start = boxes.reshape(-1, 4)[:, :2] - offset
    side = boxes.reshape(-1, 4)[:, 2:] - offset - start
    side = side if aligned else side.clamp(min=1)
    height, width = masks.shape[-2:]
    rows = bilinear.averaging_matrix(start[:, 1], side[:, 1], mask_size, height)
    columns = bilinear.averaging_matrix(start[:, 0], side[:, 0], mask_size, width)
    crops = []
    chunk = CHUNK if boxes.device.type == "cpu" else max(CHUNK_BYTES // (4 * height * width), 1)
    for part in torch.arange(len(image), device=boxes.device).split(chunk):  # type: ignore[no-untyped-call]
        whole = masks[image[part], matched.reshape(-1)[part]].to(boxes.dtype)
        with torch.autocast(boxes.device.type, enabled=False):  # half precision would move what lies near 0.5
            crops.append(rows[part] @ whole @ columns[part].mT)
    return torch.cat(crops)


def paste_masks(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: PasteRule = "continuous",
    threshold: float = 0.5,
) -> Bool[Tensor, "D H W"]:
    """Return the masks laid on an image of (height, width), where `boxes` says.

    A pixel belongs to the object if the mask, interpolated bilinearly at its centre, is at least `threshold`.
    `continuous` takes the box as it is, to the sub-pixel; `integer_box` first rounds it to whole pixels.
    `rle.paste_rles` gives the same masks as run lengths, without this stack.

    Example:
        >>> paste_masks(torch.ones(1, 28, 28), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4))[0].int()
        tensor([[0, 1, 1, 0],
                [0, 1, 1, 0]], dtype=torch.int32)
    """
    if usable(probabilities, boxes):
        from maskrcnn.ops.triton.masks import paste_masks as twin

        return twin(probabilities, boxes, image_size, rule, threshold)
    pasted = torch.zeros(len(boxes), *image_size, dtype=torch.bool, device=boxes.device)
    for k, top, left, values in _pasted(probabilities, boxes, image_size, rule):
        height, width = values.shape
        torch.ge(values, threshold, out=pasted[k, top : top + height, left : left + width])
    return pasted


def paste_probabilities(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: PasteRule = "continuous",
) -> Float[Tensor, "D H W"]:
    """Return what `paste_masks` compares with its threshold."""
    pasted = torch.zeros(len(boxes), *image_size, dtype=probabilities.dtype, device=boxes.device)
    for k, top, left, values in _pasted(probabilities, boxes, image_size, rule):
        height, width = values.shape
        pasted[k, top : top + height, left : left + width] = values
    return pasted


def _pasted(
    probabilities: Float[Tensor, "D M M"], boxes: Float[Tensor, "D 4"], image_size: tuple[int, int], rule: PasteRule
) -> Iterator[tuple[int, int, int, Float[Tensor, "h w"]]]:
    """Yield (mask, top, left, values) of the part of the image that each mask can reach, some rows at a time.

    Values are a + share · (b − a), each operation rounded by itself: going from one cell to the next they never
    turn back, which `rle.paste_rles` builds on.
    """
    padded = F.pad(probabilities, (1, 1, 1, 1))
    steps_right = padded.diff(dim=2)
    for k, (x, y) in enumerate(reaches(boxes, image_size, probabilities.shape[-1], rule)):
        across, right = (torch.from_numpy(t).to(boxes.device) for t in (x.cell, x.share))
        down, below = (torch.from_numpy(t).to(boxes.device) for t in (y.cell, y.share[:, None]))
        lines = steps_right[k].index_select(1, across).mul_(right).add_(padded[k].index_select(1, across))
        steps_down = lines.diff(dim=0)
        band = max(BAND // max(len(across), 1), 1)
        for begin in range(0, len(down), band):
            cells = down[begin : begin + band]
            values = steps_down.index_select(0, cells).mul_(below[begin : begin + band])
            yield k, y.first + begin, x.first, values.add_(lines.index_select(0, cells))


class Reach(NamedTuple):
    """The pixels along one axis of the image that a mask can reach, and where they lie in it.

    The mask has a cell of zeros before its first and after its last one, so cell 1 is its first.
    """

    first: int
    """The first of the pixels."""
    cell: Int64[np.ndarray, " n"]
    """For each pixel the last cell whose centre is not beyond the pixel's."""
    share: Float[np.ndarray, " n"]
    """How far each pixel's centre is on the way from that cell's centre to the next, 0 to 1."""


def reaches(
    boxes: Float[Tensor, "D 4"], image_size: tuple[int, int], size: int, rule: PasteRule
) -> Iterator[tuple[Reach, Reach]]:
    """Yield, for each box, what a mask of size × size cells in it can reach along x and along y."""
    height, width = image_size
    dtype = np.dtype(np.float64 if boxes.dtype == torch.float64 else np.float32)
    for x1, y1, x2, y2 in boxes.tolist():
        yield _reach(x1, x2, width, size, rule, dtype), _reach(y1, y2, height, size, rule, dtype)


def _reach(begin: float, end: float, extent: int, size: int, rule: PasteRule, dtype: np.dtype[Any]) -> Reach:
    """Return what a mask of `size` cells from `begin` to `end` reaches of `extent` pixels."""
    if rule == "continuous":
        cell = max(end - begin, 1e-6) / size
        offset, zero = begin, 0.0
        first, last = int(begin - cell / 2 - 1), int(end + cell / 2 + 1)
    else:  # one cell of padding all round, then a box of whole pixels, its last pixel included
        half = (end - begin) * (size + 2) / size / 2
        middle = (begin + end) / 2
        first, last = int(middle - half), int(middle + half) + 1
        last = max(last, first + 1)
        cell = (last - first) / (size + 2)
        offset, zero = first, 1.0
    lowest = max(first, 0)
    pixel = np.arange(lowest, max(min(last, extent), lowest), dtype=dtype)
    position = ((pixel + 0.5 - offset) / cell + (0.5 - zero)).clip(0, size + 1)
    before = np.minimum(np.floor(position), size)
    return Reach(lowest, before.astype(np.int64), position - before)
