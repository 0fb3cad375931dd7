"""Masks: the targets a mask head learns from, and laying its answers on the photo."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.ops import bilinear

CHUNK = 16
"""RoIs whose full masks are held in float at a time."""


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
    for part in torch.arange(len(image), device=boxes.device).split(CHUNK):  # type: ignore[no-untyped-call]
        whole = masks[image[part], matched.reshape(-1)[part]].to(boxes.dtype)
        with torch.autocast(boxes.device.type, enabled=False):  # half precision would move what lies near 0.5
            crops.append(rows[part] @ whole @ columns[part].mT)
    return torch.cat(crops)


def paste_masks(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: Literal["continuous", "integer_box"] = "continuous",
    threshold: float = 0.5,
) -> Bool[Tensor, "D H W"]:
    """Return the masks laid on an image of (height, width), where `boxes` says.

    A pixel belongs to the object if the mask, interpolated bilinearly at its centre, is at least `threshold`.
    `continuous` takes the box as it is, to the sub-pixel; `integer_box` first rounds it to whole pixels.

    Example:
        >>> paste_masks(torch.ones(1, 28, 28), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4))[0].int()
        tensor([[0, 1, 1, 0],
                [0, 1, 1, 0]], dtype=torch.int32)
    """
    pasted = torch.zeros(len(boxes), *image_size, dtype=torch.bool, device=boxes.device)
    for k, (top, left, values) in enumerate(_pasted(probabilities, boxes, image_size, rule)):
        height, width = values.shape
        torch.ge(values, threshold, out=pasted[k, top : top + height, left : left + width])
    return pasted


def paste_probabilities(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: Literal["continuous", "integer_box"] = "continuous",
) -> Float[Tensor, "D H W"]:
    """Return what `paste_masks` compares with its threshold."""
    pasted = torch.zeros(len(boxes), *image_size, dtype=probabilities.dtype, device=boxes.device)
    for k, (top, left, values) in enumerate(_pasted(probabilities, boxes, image_size, rule)):
        height, width = values.shape
        pasted[k, top : top + height, left : left + width] = values
    return pasted


def _pasted(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: str,
) -> list[tuple[int, int, Float[Tensor, "h w"]]]:
    """Return (top, left, values) of the part of the image that each mask can reach."""
    height, width = image_size
    size = probabilities.shape[-1]
    parts = []
    for mask, (x1, y1, x2, y2) in zip(probabilities, boxes.tolist(), strict=True):
        left, columns = _axis(x1, x2, width, size, rule, boxes)
        top, rows = _axis(y1, y2, height, size, rule, boxes)
        with torch.autocast(boxes.device.type, enabled=False):
            parts.append((top, left, rows @ mask @ columns.mT))
    return parts


def _axis(
    begin: float, end: float, extent: int, size: int, rule: str, like: Tensor
) -> tuple[int, Float[Tensor, "n M"]]:
    """Return the first pixel that a mask of `size` cells from `begin` to `end` reaches, and the weights of
    its cells in that pixel and those after it.
    """
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
    pixel = torch.arange(lowest, max(min(last, extent), lowest), device=like.device, dtype=like.dtype)
    position = (pixel + 0.5 - offset) / cell - 0.5 - zero
    cells = torch.arange(size, device=like.device, dtype=like.dtype)
    return lowest, (1 - (position[:, None] - cells).abs()).clamp(min=0)
