"""What follows the network in a graph that takes photos: detections in the frame of the photo, and masks laid on it.

The rules are those of `maskrcnn.prediction.unbatch` and `maskrcnn.ops.masks`.
"""

from __future__ import annotations

import numpy as np
import onnx

from maskrcnn.config import Config, MaskHeadConfig
from maskrcnn.export.onnx.photo import Prepared
from maskrcnn.export.onnx.steps import BOOL, DOUBLE, FLOAT, INT64, Steps


def in_photo(steps: Steps, outputs: dict[str, str], config: Config, photo: Prepared, paste: bool) -> list[str]:
    """Add what makes of the network's outputs those of the file; return their names.

    Args:
        steps: of the graph.
        outputs: names of the network's outputs by field of `DetectionBatch`.
        config: of the network.
        photo: the way back to the photo.
        paste: lay the masks on the photo, instead of giving their probabilities.
    """
    boxes = _to_photo(steps, steps.Squeeze(outputs["boxes"], steps.ints(0)), config, photo)
    kept = _kept(steps, boxes, steps.Squeeze(outputs["valid"], steps.ints(0)))

    def chosen(name: str) -> str:
        return str(steps.Gather(steps.Squeeze(outputs[name], steps.ints(0)), kept))

    boxes = steps.Gather(boxes, kept, named="boxes")
    names = [boxes]
    for field in ("labels", "scores"):
        names.append(steps.Identity(chosen(field), named=field))
    if config.masks and paste:
        probabilities = steps.Sigmoid(chosen("mask_logits"))
        ends = -1.0 if config.box_corners == "inclusive" else 0.0  # the rule was written for the last pixel
        laid = steps.Add(boxes, steps.constant(np.array([[0, 0, ends, ends]], np.float32)))
        names.append(_pasted(steps, probabilities, laid, config.mask, photo))
    elif config.masks:
        names.append(steps.Sigmoid(chosen("mask_logits"), named="masks"))
    if config.keypoint_names:
        names.append(steps.Identity(chosen("keypoint_logits"), named="keypoint_logits"))
    return names


def _to_photo(steps: Steps, boxes: str, config: Config, photo: Prepared) -> str:
    """Add `prediction.to_photos`, clipping and, for configurations that want it, rounding; boxes are [D, 4]."""
    corners = config.box_corners
    ends = 0.0 if corners == "edges" else -1.0

    def moved_ends(value: str, by: float) -> str:
        return str(steps.Add(value, steps.constant(np.array([[0, 0, by, by]], np.float32)))) if by else value

    def twice(pair: str) -> str:
        """(y, x) as float (x, y, x, y)."""
        x, y = (steps.cut(pair, k, k + 1, 0) for k in (1, 0))
        return str(steps.joined([x, y, x, y]))

    last = steps.ints(1 if corners == "centers" else 0)
    one = steps.ints(1)
    original, size = (steps.Sub(pair, last) for pair in (photo.original, photo.size))
    scale = steps.Div(steps.Cast(original, to=FLOAT), steps.Cast(steps.Max(size, one), to=FLOAT))
    start = steps.Cast(twice(photo.start), to=FLOAT)
    moved = steps.Sub(moved_ends(boxes, ends if corners == "inclusive" else 0.0), start)
    in_photo = moved_ends(steps.Mul(moved, twice(scale)), -ends)
    highest = steps.Cast(twice(photo.original), to=FLOAT)
    clipped = steps.Min(steps.Max(in_photo, steps.constant(0.0)), highest)
    return str(steps.Round(clipped)) if config.box.round_boxes else str(clipped)


def _kept(steps: Steps, boxes: str, valid: str) -> str:
    """Add the choice of the slots that hold a detection with an area; int64 [n]."""
    sides = steps.Sub(steps.cut(boxes, 2, 4, 1), steps.cut(boxes, 0, 2, 1))
    finite = steps.Not(steps.Or(steps.IsInf(sides), steps.IsNaN(sides)))
    fit = steps.And(steps.Greater(sides, steps.constant(0.0)), finite)
    both = steps.ReduceMin(steps.Cast(fit, to=INT64), steps.ints(1), keepdims=0)
    keep = steps.And(valid, steps.Cast(both, to=BOOL))
    return str(steps.Reshape(steps.NonZero(keep), steps.ints(-1)))


def _pasted(steps: Steps, probabilities: str, boxes: str, config: MaskHeadConfig, photo: Prepared) -> str:
    """Add `ops.masks.paste_masks`, a mask at a time: bool [n, H, W]."""
    count = steps.cut(steps.Shape(boxes), 0, 1, 0)
    padded = steps.Pad(probabilities, steps.ints(0, 1, 1, 0, 1, 1), steps.constant(0.0))
    cells = steps.cut(steps.Shape(padded), 2, 3, 0)
    reach = _reaches(steps, boxes, steps.Sub(cells, steps.ints(2)), config.paste, photo)
    inside = Steps(f"{steps.part}/mask")
    result = _one_mask(inside, padded, cells, reach, config.threshold, photo)
    body = onnx.helper.make_graph(
        inside.nodes,
        "one mask",
        [
            onnx.helper.make_tensor_value_info("mask_number", INT64, []),
            onnx.helper.make_tensor_value_info("mask_go_on", BOOL, []),
        ],
        [
            onnx.helper.make_tensor_value_info("mask_still", BOOL, []),
            onnx.helper.make_tensor_value_info(result, BOOL, [None, None]),
        ],
        inside.constants,
    )
    stack = steps.Loop(steps.Squeeze(count), steps.constant(True), body=body)
    return str(steps.Reshape(stack, steps.joined([count, photo.original]), named="masks", allowzero=1))


def _reaches(steps: Steps, boxes: str, size: str, rule: str, photo: Prepared) -> dict[str, str]:
    """Add the window of pixels that each mask can reach, as `ops.masks._reach` does: [n, 2], x and y."""

    def number(value: float) -> str:
        return steps.constant(value, np.float64)

    def whole(value: str) -> str:
        return str(steps.Cast(value, to=INT64))  # towards zero

    exact = steps.Cast(boxes, to=DOUBLE)
    begin, end = steps.cut(exact, 0, 2, 1), steps.cut(exact, 2, 4, 1)
    cells = steps.Cast(size, to=DOUBLE)
    extent = steps.Gather(photo.original, steps.ints(1, 0))
    if rule == "continuous":
        cell = steps.Div(steps.Max(steps.Sub(end, begin), number(1e-6)), cells)
        half = steps.Div(cell, number(2.0))
        first = whole(steps.Sub(steps.Sub(begin, half), number(1.0)))
        last = whole(steps.Add(steps.Add(end, half), number(1.0)))
        offset, zero = begin, 0.0
    else:
        grown = steps.Div(steps.Mul(steps.Sub(end, begin), steps.Add(cells, number(2.0))), cells)
        half = steps.Div(grown, number(2.0))
        middle = steps.Div(steps.Add(begin, end), number(2.0))
        first = whole(steps.Sub(middle, half))
        last = steps.Add(whole(steps.Add(middle, half)), steps.constant(1))
        last = steps.Max(last, steps.Add(first, steps.constant(1)))
        cell = steps.Div(steps.Cast(steps.Sub(last, first), to=DOUBLE), steps.Add(cells, number(2.0)))
        offset, zero = steps.Cast(first, to=DOUBLE), 1.0
    lowest = steps.Max(first, steps.constant(0))
    return {
        "lowest": lowest,
        "end": steps.Max(steps.Min(last, extent), lowest),
        "offset": steps.Cast(offset, to=FLOAT),
        "cell": steps.Cast(cell, to=FLOAT),
        "shift": steps.constant(0.5 - zero),
    }


def _one_mask(steps: Steps, padded: str, cells: str, reach: dict[str, str], threshold: float, photo: Prepared) -> str:
    """Add the body of the loop: one mask, interpolated along x and then along y, in its place on the photo."""
    steps.Identity("mask_go_on", named="mask_still")
    mask = steps.Gather(padded, "mask_number")
    mine = {key: steps.Gather(reach[key], "mask_number") for key in ("lowest", "end", "offset", "cell")}
    last_cell = steps.Sub(cells, steps.ints(2))
    axes = []
    for axis in (0, 1):
        lowest, end, offset, cell = (
            steps.Gather(mine[key], steps.constant(axis)) for key in ("lowest", "end", "offset", "cell")
        )
        pixel = steps.Cast(steps.Range(lowest, end, steps.constant(1)), to=FLOAT)
        centre = steps.Sub(steps.Add(pixel, steps.constant(0.5)), offset)
        position = steps.Add(steps.Div(centre, cell), reach["shift"])
        highest = steps.Cast(steps.Squeeze(steps.Add(last_cell, steps.ints(1))), to=FLOAT)
        position = steps.Clip(position, steps.constant(0.0), highest)
        before = steps.Min(steps.Floor(position), steps.Cast(last_cell, to=FLOAT))
        axes.append((steps.Cast(before, to=INT64), steps.Sub(position, before)))
    (across, right), (down, below) = axes

    def between(values: str, index: str, share: str, axis: int) -> str:
        low = steps.Gather(values, index, axis=axis)
        high = steps.Gather(values, steps.Add(index, steps.constant(1)), axis=axis)
        return str(steps.Add(steps.Mul(steps.Sub(high, low), share), low))

    lines = between(mask, across, right, 1)
    values = between(lines, down, steps.Unsqueeze(below, steps.ints(1)), 0)
    inside = steps.GreaterOrEqual(values, steps.constant(threshold))
    starts = steps.Gather(mine["lowest"], steps.ints(1, 0))
    ends = steps.Sub(photo.original, steps.Gather(mine["end"], steps.ints(1, 0)))
    return str(steps.Pad(inside, steps.joined([starts, ends]), steps.constant(False)))
