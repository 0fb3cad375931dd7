# mypy: disable-error-code="misc, untyped-decorator, import-untyped, import-not-found"
"""RoIAlign and crop_and_resize as one kernel, and one for their gradient: a program for each bin of each RoI."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.ops.triton import DEVICES, LAUNCH, define, on_device_of

MOST_CHANNELS = 256
"""Channels that a program works on at a time."""
WARPS = 2
"""For each program. 64 lanes read 256 channels of half precision 8 bytes at a time."""


def mean_of_samples(
    table: Float[Tensor, "cells C"],
    base: Int64[Tensor, " R"],
    extent: Int64[Tensor, "R 2"],
    start: Float[Tensor, "R 2"],
    bin_side: Float[Tensor, "R 2"],
    samples: int | Int64[Tensor, "R 2"],
    bins: int,
    margin: float = 1.0,
    place: float = 0.5,
) -> Float[Tensor, "R PP C"]:
    """Return the mean of each bin's bilinear samples; the twin of what `roi_align` does once RoIs are in cells.

    Sample k of n along an axis of bin b lies at start + (b + (k + place) / n) · bin_side. Sums are in float32, the
    result in the table's type. The gradient is added up in float32 by atomic operations, in an order that differs
    from run to run: it is not the same bit for bit each time.

    Args:
        table: feature vectors, see `FlatPyramid`.
        base: row of the table where the map of each RoI's image and level begins.
        extent: width and height of that map.
        start: where the first bin begins, x and y, in cells.
        bin_side: of each bin, x and y, in cells.
        samples: along each axis of a bin: a number for all RoIs, or one for each RoI and axis.
        bins: along each side.
        margin: cells beyond the map up to which the border cell counts; farther out a sample is 0.
        place: of the first of the samples in its part of the bin, 0 to 1.

    The pairs are (x, y), as in `roi_align._RoIs`.
    """
    fixed, counts = (samples, None) if isinstance(samples, int) else (0, samples)
    means: Tensor = torch.ops.maskrcnn_triton.mean_of_samples(
        table, base, extent, start, bin_side, counts, fixed, bins, margin, place
    )
    return means


_ROIS = "Tensor base, Tensor extent, Tensor start, Tensor bin_side, Tensor? counts, int samples, int bins, float margin"
_MEAN_OF_SAMPLES = define("mean_of_samples", f"(Tensor table, {_ROIS}, float place) -> Tensor")
_MEAN_OF_SAMPLES_BACKWARD = define(
    "mean_of_samples_backward", f"(Tensor gradient, {_ROIS}, float place, SymInt cells) -> Tensor"
)


@torch.library.impl(_MEAN_OF_SAMPLES, DEVICES)
def _mean_of_samples(
    table: Tensor,
    base: Tensor,
    extent: Tensor,
    start: Tensor,
    bin_side: Tensor,
    counts: Tensor | None,
    samples: int,
    bins: int,
    margin: float,
    place: float,
) -> Tensor:
    table = table.contiguous()
    means = table.new_empty(base.shape[0], bins * bins, table.shape[1])
    _launch(_forward, table, means, (base, extent, start, bin_side, counts), samples, bins, margin, place)
    return means


@torch.library.register_fake(_MEAN_OF_SAMPLES)
def _(
    table: Tensor,
    base: Tensor,
    extent: Tensor,
    start: Tensor,
    bin_side: Tensor,
    counts: Tensor | None,
    samples: int,
    bins: int,
    margin: float,
    place: float,
) -> Tensor:
    return table.new_empty(base.shape[0], bins * bins, table.shape[1])


@torch.library.impl(_MEAN_OF_SAMPLES_BACKWARD, DEVICES)
def _mean_of_samples_backward(
    gradient: Tensor,
    base: Tensor,
    extent: Tensor,
    start: Tensor,
    bin_side: Tensor,
    counts: Tensor | None,
    samples: int,
    bins: int,
    margin: float,
    place: float,
    cells: int,
) -> Tensor:
    gradient = gradient.contiguous()
    summed = torch.zeros(cells, gradient.shape[2], dtype=torch.float32, device=gradient.device)
    _launch(_backward, summed, gradient, (base, extent, start, bin_side, counts), samples, bins, margin, place)
    return summed.to(gradient.dtype, copy=False)


@torch.library.register_fake(_MEAN_OF_SAMPLES_BACKWARD)
def _(
    gradient: Tensor,
    base: Tensor,
    extent: Tensor,
    start: Tensor,
    bin_side: Tensor,
    counts: Tensor | None,
    samples: int,
    bins: int,
    margin: float,
    place: float,
    cells: int,
) -> Tensor:
    return gradient.new_empty(cells, gradient.shape[2])


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, *rois, samples, bins, margin, place = inputs
    ctx.save_for_backward(*rois)
    ctx.rest = (samples, bins, margin, place, table.shape[0])


def _gradient_of_table(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    summed = torch.ops.maskrcnn_triton.mean_of_samples_backward(gradient, *ctx.saved_tensors, *ctx.rest)
    return summed, *[None] * 9


torch.library.register_autograd(_MEAN_OF_SAMPLES, _gradient_of_table, setup_context=_keep_for_backward)


def _launch(
    kernel: Any,
    table: Tensor,
    bins_of_rois: Tensor,
    rois: tuple[Tensor | None, ...],
    samples: int,
    bins: int,
    margin: float,
    place: float,
) -> None:
    """Run a kernel over all bins of all RoIs and blocks of channels."""
    if not bins_of_rois.numel():
        return
    channels = table.shape[1]
    block = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    grid = (bins_of_rois.shape[0] * bins * bins, triton.cdiv(channels, block))
    base, extent, start, bin_side, counts = (None if t is None else t.contiguous() for t in rois)
    with on_device_of(table):
        kernel[grid](
            table,
            bins_of_rois,
            base,
            extent,
            start,
            bin_side,
            extent if counts is None else counts,
            margin,
            place,
            channels,
            samples,
            bins,
            block,
            num_warps=WARPS,
            **LAUNCH,
        )


@triton.jit
@no_type_check
def _side(position, extent, margin):
    """Return the two cells around a position along one axis, and their weights, as `bilinear.neighbours` does."""
    inside = (position >= -margin) & (position <= (extent - 1).to(tl.float32) + margin)
    position = tl.where(inside, tl.maximum(position, 0.0), 0.0)
    low = tl.minimum(position.to(tl.int64), extent - 1)
    high = tl.minimum(low + 1, extent - 1)
    upper = tl.minimum(position - low.to(tl.float32), (high - low).to(tl.float32))
    worth = tl.where(inside, 1.0, 0.0)
    return low, high, (1.0 - upper) * worth, upper * worth


@triton.jit
@no_type_check
def _bin(extent, start, bin_side, counts, at, number, SAMPLES: tl.constexpr):
    """Return the map's extent, where a bin begins, its side and its number of samples, along one axis."""
    size = tl.load(extent + at)
    side = tl.load(bin_side + at)
    begin = tl.load(start + at) + number.to(tl.float32) * side
    count = tl.full([], SAMPLES, tl.int32) if SAMPLES > 0 else tl.load(counts + at).to(tl.int32)
    return size, begin, side, count


@triton.jit
@no_type_check
def _forward(
    table,
    means,
    base,
    extent,
    start,
    bin_side,
    counts,
    margin,
    place,
    CHANNELS: tl.constexpr,
    SAMPLES: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the means of one bin."""
    one = tl.program_id(0).to(tl.int64)
    roi, number = one // (BINS * BINS), (one % (BINS * BINS)).to(tl.int32)
    width, x, side_x, across = _bin(extent, start, bin_side, counts, roi * 2, number % BINS, SAMPLES)
    height, y, side_y, down = _bin(extent, start, bin_side, counts, roi * 2 + 1, number // BINS, SAMPLES)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channel < CHANNELS
    cells = table + tl.load(base + roi) * CHANNELS + channel
    total = tl.zeros([BLOCK], tl.float32)
    for row in range(down if SAMPLES == 0 else SAMPLES):
        step = tl.div_rn(row + place, down.to(tl.float32))
        top, bottom, upper, lower = _side(y + step * side_y, height, margin)
        first, second = cells + (top * width) * CHANNELS, cells + (bottom * width) * CHANNELS
        for column in range(across if SAMPLES == 0 else SAMPLES):
            step = tl.div_rn(column + place, across.to(tl.float32))
            left, right, near, far = _side(x + step * side_x, width, margin)
            total += upper * near * tl.load(first + left * CHANNELS, mask=there).to(tl.float32)
            total += upper * far * tl.load(first + right * CHANNELS, mask=there).to(tl.float32)
            total += lower * near * tl.load(second + left * CHANNELS, mask=there).to(tl.float32)
            total += lower * far * tl.load(second + right * CHANNELS, mask=there).to(tl.float32)
    mean = tl.div_rn(total, (across * down).to(tl.float32))
    tl.store(means + one * CHANNELS + channel, mean, mask=there)


@triton.jit
@no_type_check
def _backward(
    summed,
    gradient,
    base,
    extent,
    start,
    bin_side,
    counts,
    margin,
    place,
    CHANNELS: tl.constexpr,
    SAMPLES: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add one bin's gradient to those of the cells that it read."""
    one = tl.program_id(0).to(tl.int64)
    roi, number = one // (BINS * BINS), (one % (BINS * BINS)).to(tl.int32)
    width, x, side_x, across = _bin(extent, start, bin_side, counts, roi * 2, number % BINS, SAMPLES)
    height, y, side_y, down = _bin(extent, start, bin_side, counts, roi * 2 + 1, number // BINS, SAMPLES)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channel < CHANNELS
    cells = summed + tl.load(base + roi) * CHANNELS + channel
    whole = tl.load(gradient + one * CHANNELS + channel, mask=there).to(tl.float32)
    share = tl.div_rn(whole, (across * down).to(tl.float32))
    for row in range(down if SAMPLES == 0 else SAMPLES):
        step = tl.div_rn(row + place, down.to(tl.float32))
        top, bottom, upper, lower = _side(y + step * side_y, height, margin)
        first, second = cells + (top * width) * CHANNELS, cells + (bottom * width) * CHANNELS
        for column in range(across if SAMPLES == 0 else SAMPLES):
            step = tl.div_rn(column + place, across.to(tl.float32))
            left, right, near, far = _side(x + step * side_x, width, margin)
            _add(first + left * CHANNELS, share, upper * near, there)
            _add(first + right * CHANNELS, share, upper * far, there)
            _add(second + left * CHANNELS, share, lower * near, there)
            _add(second + right * CHANNELS, share, lower * far, there)


@triton.jit
@no_type_check
def _add(cell, share, weight, there):
    """Add a weighted gradient to a cell's, unless the weight is 0: outside the map, or at its border."""
    if weight != 0.0:
        tl.atomic_add(cell, share * weight, mask=there, sem="relaxed")
