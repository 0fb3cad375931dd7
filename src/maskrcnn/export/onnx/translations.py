"""How the steps of `maskrcnn.ops.stand_ins` are written in ONNX's standard operators.

They are exact twins of the PyTorch code: NonMaxSuppression and RoiAlign round as it does, and where a choice of
order is left to them it is made for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18

from maskrcnn.ops import stand_ins  # noqa: F401  registers the operators

TILE, TILES = 64, 1024
"""Side of a tile in input pixels, and how many of them there are at most along a side."""

op: Any = opset18
Value = Any
"""A value of the graph under construction."""


def _ints(*numbers: int) -> Value:
    return op.Constant(value=ir.tensor(np.array(numbers, np.int64)))


def _number(value: float | int) -> Value:
    return op.Constant(value=ir.tensor(np.array(value, np.float32 if isinstance(value, float) else np.int64)))


def _size(value: Value, axis: int) -> Value:
    """Return one side of a tensor, as [1]."""
    return op.Shape(value, start=axis, end=axis + 1)


def _range(count: Value) -> Value:
    """Return 0, 1, … up to a count given as [1]."""
    return op.Range(_number(0), op.Squeeze(count), _number(1))


def nms(boxes: Value, valid: Value, threshold: float, groups: Value | None = None, enough: int | None = None) -> Value:
    """Boxes come best first, so their scores are R, R − 1, … 1, and 0 for what is not valid, which is no candidate."""
    count = _size(valid, 1)
    rank = op.Cast(op.Sub(count, _range(count)), to=ir.DataType.FLOAT)
    if groups is None:
        candidates = op.Unsqueeze(valid, _ints(1))
    else:
        number = _range(op.Reshape(op.Add(op.ReduceMax(groups, keepdims=0), _number(1)), _ints(1)))
        of_group = op.Equal(op.Unsqueeze(groups, _ints(1)), op.Unsqueeze(number, _ints(0, 2)))
        candidates = op.And(of_group, op.Unsqueeze(valid, _ints(1)))
    scores = op.Where(candidates, rank, _number(0.0))
    kept = op.NonMaxSuppression(boxes, scores, count, _number(threshold), _number(0.0))  # image, group, box
    places = op.Gather(kept, _ints(0, 2), axis=1)
    nothing = op.And(valid, op.Not(valid))
    all_true = op.Expand(op.Constant(value=ir.tensor(np.array([True]))), _size(places, 0))
    return op.ScatterND(nothing, places, all_true)


def roi_align(
    maps: Sequence[Value],
    boxes: Value,
    levels: Value,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Value:
    """Each level's RoIs are cut from it alone, and then put in order."""

    def cut(level: Value, scale: float, rois: Value, images: Value) -> Value:
        return op.RoiAlign(
            level,
            rois,
            images,
            output_height=output_size,
            output_width=output_size,
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )

    return _level_by_level(cut, maps, boxes, levels, scales)


def roi_pool(maps: Sequence[Value], boxes: Value, levels: Value, scales: Sequence[float], output_size: int) -> Value:
    """MaxRoiPool takes the number of the image as the first of five numbers of a RoI."""

    def cut(level: Value, scale: float, rois: Value, images: Value) -> Value:
        image = op.Unsqueeze(op.Cast(images, to=ir.DataType.FLOAT), _ints(1))
        rows = op.Concat(image, rois, axis=1)
        return op.MaxRoiPool(level, rows, pooled_shape=[output_size, output_size], spatial_scale=scale)

    return _level_by_level(cut, maps, boxes, levels, scales)


def _level_by_level(
    cut: Callable[[Value, float, Value, Value], Value],
    maps: Sequence[Value],
    boxes: Value,
    levels: Value,
    scales: Sequence[float],
) -> Value:
    rois = op.Reshape(boxes, _ints(-1, 4))
    per_image = op.Squeeze(_size(boxes, 1))
    images = op.Div(_range(_size(rois, 0)), per_image)
    if len(maps) == 1:
        return cut(maps[0], scales[0], rois, images)
    order = _neighbours_together(rois, images)
    level_of = op.Gather(op.Reshape(levels, _ints(-1)), order)
    crops, places = [], []
    for number, (level, scale) in enumerate(zip(maps, scales, strict=True)):
        mine = op.Gather(order, op.Reshape(op.NonZero(op.Equal(level_of, _number(number))), _ints(-1)))
        crops.append(cut(level, scale, op.Gather(rois, mine), op.Gather(images, mine)))
        places.append(mine)
    where = op.Concat(*places, axis=0)
    back = op.ScatterElements(where, where, _range(_size(rois, 0)))
    return op.Gather(op.Concat(*crops, axis=0), back)


def _neighbours_together(rois: Value, images: Value) -> Value:
    """Return an order in which RoIs that lie in one tile of the image follow each other.

    They read the same cells, which the processor then has at hand: RoIAlign takes two thirds of the time.
    """
    middles = op.Mul(
        op.Add(op.Slice(rois, _ints(0), _ints(2), _ints(1)), op.Slice(rois, _ints(2), _ints(4), _ints(1))),
        _number(0.5 / TILE),
    )
    tile = op.Cast(op.Clip(middles, _number(0.0), _number(float(TILES - 1))), to=ir.DataType.INT64)
    strides = op.Constant(value=ir.tensor(np.array([[1, TILES]], np.int64)))  # x, y
    key = op.Add(op.ReduceSum(op.Mul(tile, strides), _ints(1), keepdims=0), op.Mul(images, _number(TILES * TILES)))
    _, order = op.TopK(key, _size(rois, 0), largest=0)
    return order


def top_above(scores: Value, threshold: float, at_least: int) -> tuple[Value, Value]:
    """The others are not valid in any case, and need not be sorted."""
    above = op.Cast(op.Greater(scores, _number(threshold)), to=ir.DataType.INT64)
    most = op.ReduceMax(op.ReduceSum(above, _ints(1), keepdims=0), keepdims=0)
    taken = op.Max(op.Reshape(most, _ints(1)), _ints(at_least))
    values, places = op.TopK(scores, taken)
    return values, places


def filled_slots(boxes: Value, valid: Value, slots: int) -> Value:
    """Valid slots stand in front."""
    counts = op.ReduceSum(op.Cast(valid, to=ir.DataType.INT64), _ints(1), keepdims=0)
    run = op.Max(op.Reshape(op.ReduceMax(counts, keepdims=0), _ints(1)), _ints(1))
    return op.Slice(boxes, _ints(0), run, _ints(1))


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.maskrcnn.nms.default: nms,
    torch.ops.maskrcnn.roi_align.default: roi_align,
    torch.ops.maskrcnn.roi_pool.default: roi_pool,
    torch.ops.maskrcnn.top_above.default: top_above,
    torch.ops.maskrcnn.filled_slots.default: filled_slots,
}
