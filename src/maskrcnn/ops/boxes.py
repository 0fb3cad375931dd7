"""Box arithmetic. Boxes are (x1, y1, x2, y2), half-open: width = x2 − x1."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from maskrcnn.config import BoxCorners


def area(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Return width times height.

    Example:
        >>> area(torch.tensor([[0.0, 0.0, 4.0, 3.0]]))
        tensor([12.])
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[Tensor, "*b R 4"], b: Float[Tensor, "*b G 4"]) -> Float[Tensor, "*b R G"]:
    """Return the intersection over union of every box of `a` with every box of `b`; 0 where both are empty.

    Example:
        >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [4.0, 4, 5, 5]]))
        tensor([[0.3333, 0.0000]])
    """
    intersection = overlap(a[..., :, None, 0], a[..., :, None, 2], b[..., None, :, 0], b[..., None, :, 2])
    intersection.mul_(overlap(a[..., :, None, 1], a[..., :, None, 3], b[..., None, :, 1], b[..., None, :, 3]))
    union = (area(a)[..., :, None] + area(b)[..., None, :]).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def overlap(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
    """Return the common length of the intervals [a1, a2] and [b1, b2], broadcast; 0 where they are apart."""
    return torch.minimum(a2, b2).sub_(torch.maximum(a1, b1)).clamp_(min=0)


def xywh_to_xyxy(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Return boxes given as (x, y, width, height), as COCO's files have them, as (x1, y1, x2, y2).

    Example:
        >>> xywh_to_xyxy(torch.tensor([10.0, 20.0, 3.0, 4.0]))
        tensor([10., 20., 13., 24.])
    """
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), dim=-1)


def encode(
    reference: Float[Tensor, "*b 4"],
    boxes: Float[Tensor, "*b 4"],
    weights: tuple[float, float, float, float],
) -> Float[Tensor, "*b 4"]:
    """Return the deltas (dx, dy, dw, dh) that move `reference` boxes onto `boxes` (R-CNN, appendix C).

    Sides of `reference` must be positive; where a side is not, the deltas are not meaningful but finite.
    """
    width, height, x, y = _center(reference)
    to_width, to_height, to_x, to_y = _center(boxes)
    width, height = width.clamp(min=1e-6), height.clamp(min=1e-6)
    wx, wy, ww, wh = weights
    return torch.stack(
        (
            wx * (to_x - x) / width,
            wy * (to_y - y) / height,
            ww * torch.log(to_width.clamp(min=1e-6) / width),
            wh * torch.log(to_height.clamp(min=1e-6) / height),
        ),
        dim=-1,
    )


def decode(
    reference: Float[Tensor, "*b 4"],
    deltas: Float[Tensor, "*b 4"],
    weights: tuple[float, float, float, float],
    max_log_scale: float | None,
) -> Float[Tensor, "*b 4"]:
    """Return `reference` boxes moved by `deltas`, the inverse of `encode` (R-CNN, appendix C).

    dw and dh are limited above by `max_log_scale`, if given, so that a wild prediction stays a finite box.

    Example:
        >>> box, ones = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), (1.0, 1.0, 1.0, 1.0)
        >>> decode(box, torch.tensor([[0.1, 0.0, 0.0, 0.0]]), ones, 4.0)
        tensor([[ 1.,  0., 11., 10.]])
    """
    width, height, x, y = _center(reference)
    dx, dy, dw, dh = (deltas / vector(weights, deltas.device, deltas.dtype)).unbind(-1)
    to_x, to_y = dx * width + x, dy * height + y
    if max_log_scale is not None:
        dw, dh = dw.clamp(max=max_log_scale), dh.clamp(max=max_log_scale)
    half_width, half_height = 0.5 * width * torch.exp(dw), 0.5 * height * torch.exp(dh)
    return torch.stack((to_x - half_width, to_y - half_height, to_x + half_width, to_y + half_height), dim=-1)


def clip(boxes: Float[Tensor, "N *b 4"], windows: Num[Tensor, "N 4"], corners: BoxCorners) -> Float[Tensor, "N *b 4"]:
    """Return the boxes cut to one window per image, given by its edges (x1, y1, x2, y2).

    Args:
        boxes: as `corners` says.
        windows: the same units, always edges.
        corners: `Config.box_corners`. With `inclusive` a box outside keeps the pixel at the border.
    """
    low, high = windows[:, :2], windows[:, 2:]
    lowest = torch.cat((low, low + 1 if corners == "inclusive" else low), dim=1)
    highest = torch.cat((high if corners == "edges" else high - 1, high - 1 if corners == "centers" else high), dim=1)
    shape = (windows.shape[0], *[1] * (boxes.dim() - 2), 4)
    lowest, highest = (limit.to(boxes.dtype).reshape(shape) for limit in (lowest, highest))
    return torch.minimum(torch.maximum(boxes, lowest), highest)


def move_ends(boxes: Float[Tensor, "*b 4"], by: float) -> Float[Tensor, "*b 4"]:
    """Return boxes whose x2 and y2 lie `by` farther on: −1 turns `edges` into `centers`, 1 the reverse.

    Example:
        >>> move_ends(torch.tensor([[0.0, 0.0, 10.0, 20.0]]), -1.0)
        tensor([[ 0.,  0.,  9., 19.]])
    """
    return boxes + vector((0.0, 0.0, by, by), boxes.device, boxes.dtype) if by else boxes


def large_enough(boxes: Float[Tensor, "*b 4"], min_size: float | None) -> Bool[Tensor, "*b"]:
    """Return whether both sides are finite, positive and at least `min_size`; with None, whether they are finite."""
    sides = boxes[..., 2:] - boxes[..., :2]
    if min_size is None:
        return sides.isfinite().all(-1)
    return ((sides >= min_size) & (sides > 0) & sides.isfinite()).all(-1)


def gather_rows(table: Tensor, index: Int64[Tensor, "N R"]) -> Tensor:
    """Return `table[n, index[n, r]]` for every n and r; `table` is [N, A] or [N, A, ...]."""
    tail = table.shape[2:]
    wide = index.reshape(*index.shape, *[1] * len(tail)).expand(*index.shape, *tail)
    return table.gather(1, wide)


def vector(numbers: Sequence[int | float], device: torch.device, dtype: torch.dtype = torch.int64) -> Num[Tensor, " n"]:
    """Return numbers as a tensor, not to be changed; they may be sizes that a compiler does not know.

    Off the CPU the same tensor is given each time, so that a run copies none there, which would make it wait. It is
    kept for good, since CUDA graphs read it whenever they run.

    Example:
        >>> vector([3, 4], torch.device("cpu"))
        tensor([3, 4])
    """
    if torch.compiler.is_compiling():
        return torch.stack([torch.full((), number, dtype=dtype, device=device) for number in numbers])
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=dtype)
    return _kept_vector(tuple(numbers), device, dtype)


def divided(values: Float[Tensor, "*n"], by: int | float) -> Float[Tensor, "*n"]:
    """Return values over a number, rounded once, on every device.

    A GPU multiplies by the reciprocal of a plain number: 21 / 7 is 3.0000002 there, whose ceiling is 4.

    Example:
        >>> divided(torch.tensor([21.0]), 7)
        tensor([3.])
    """
    return values / by if values.device.type == "cpu" else values / vector((by,), values.device, values.dtype)


@functools.cache
def _kept_vector(numbers: tuple[int | float, ...], device: torch.device, dtype: torch.dtype) -> Num[Tensor, " n"]:
    with torch.inference_mode(False):  # training may use it later
        return torch.tensor(numbers, dtype=dtype, device=device)


def _center(boxes: Float[Tensor, "*b 4"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return width, height, x1 + 0.5 * width, y1 + 0.5 * height
