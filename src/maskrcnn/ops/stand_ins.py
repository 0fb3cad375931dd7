"""Operators that stand in for steps of the network while it is traced for a program that need not have fixed shapes.

ONNX has operators of its own for these steps: `maskrcnn.export.onnx.translations`. A program for a CPU of this machine
calls back what an eager run does: `maskrcnn.optimized.operators`. Here are their shapes alone. The code that they
stand for asks `exporting()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_LIBRARY: Any = torch.library.Library("maskrcnn", "DEF")  # type: ignore[no-untyped-call]
_shape_of: Any = torch.library.register_fake
_LIBRARY.define("nms(Tensor boxes, Tensor valid, float threshold, Tensor? groups, int? enough) -> Tensor")
_LIBRARY.define(
    "roi_align(Tensor[] maps, Tensor boxes, Tensor levels, float[] scales, int output_size, int sampling_ratio, "
    "bool aligned) -> Tensor"
)
_LIBRARY.define("roi_pool(Tensor[] maps, Tensor boxes, Tensor levels, float[] scales, int output_size) -> Tensor")
_LIBRARY.define("top_above(Tensor scores, float threshold, int at_least) -> (Tensor, Tensor)")
_LIBRARY.define("filled_slots(Tensor boxes, Tensor valid, int slots) -> Tensor")

_tracing: list[str] = []


def exporting() -> bool:
    """Return whether steps are wanted as operators that may look at values, not as code of fixed shapes."""
    return len(_tracing) > 0


def exporting_to_onnx() -> bool:
    """Return whether the network is being exported to ONNX right now."""
    return "onnx" in _tracing


@contextmanager
def tracing_for_onnx() -> Iterator[None]:
    """Let what is traced in the block be made of all operators of this module."""
    _tracing.append("onnx")
    try:
        yield
    finally:
        _tracing.pop()


@contextmanager
def tracing_by_value() -> Iterator[None]:
    """Let what is traced in the block be made of `nms` and `top_above`, for a program that runs here.

    `maskrcnn.optimized.operators` has what they do there.
    """
    _tracing.append("here")
    try:
        yield
    finally:
        _tracing.pop()


def nms(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None, enough: int | None) -> Tensor:
    """Return a stand-in for `maskrcnn.ops.nms.nms`."""
    return _operators().nms(boxes, valid, threshold, groups, enough)


def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Return a stand-in for `maskrcnn.roi_align.roi_align`; `scales` are cells per unit of `boxes` on each level."""
    return _operators().roi_align(list(maps), boxes, levels, list(scales), output_size, sampling_ratio, aligned)


def roi_pool(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, scales: Sequence[float], output_size: int
) -> Tensor:
    """Return a stand-in for `maskrcnn.roi_align.roi_pool`."""
    return _operators().roi_pool(list(maps), boxes, levels, list(scales), output_size)


def top_above(scores: Tensor, threshold: float, at_least: int) -> tuple[Tensor, Tensor]:
    """Return a stand-in for `scores.topk(k)`; k is how many exceed the threshold where most do, or `at_least`."""
    return _operators().top_above(scores, threshold, at_least)


def filled_slots(boxes: Tensor, valid: Tensor) -> Tensor:
    """Return a stand-in for `boxes[:, :n]`: n is how many slots are valid in the image with most, at least 1."""
    return _operators().filled_slots(boxes, valid, boxes.shape[1])


def _operators() -> Any:
    return torch.ops.maskrcnn


@_shape_of("maskrcnn::nms")  # type: ignore[untyped-decorator]
def _nms_shape(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None, enough: int | None) -> Tensor:
    return torch.empty_like(valid)


@_shape_of("maskrcnn::roi_align")  # type: ignore[untyped-decorator]
def _roi_align_shape(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return _crops(maps, boxes, output_size)


@_shape_of("maskrcnn::roi_pool")  # type: ignore[untyped-decorator]
def _roi_pool_shape(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, scales: Sequence[float], output_size: int
) -> Tensor:
    return _crops(maps, boxes, output_size)


def _crops(maps: Sequence[Tensor], boxes: Tensor, output_size: int) -> Tensor:
    return maps[0].new_empty(boxes.shape[0] * boxes.shape[1], maps[0].shape[1], output_size, output_size)


@_shape_of("maskrcnn::top_above")  # type: ignore[untyped-decorator]
def _top_above_shape(scores: Tensor, threshold: float, at_least: int) -> tuple[Tensor, Tensor]:
    taken = torch.library.get_ctx().new_dynamic_size(min=at_least)
    values = scores.new_empty(scores.shape[0], taken)
    return values, torch.empty_like(values, dtype=torch.int64)


@_shape_of("maskrcnn::filled_slots")  # type: ignore[untyped-decorator]
def _filled_slots_shape(boxes: Tensor, valid: Tensor, slots: int) -> Tensor:
    run = torch.library.get_ctx().new_dynamic_size(min=1, max=slots)
    return boxes.new_empty(boxes.shape[0], run, 4)
