# mypy: disable-error-code="misc, untyped-decorator, import-untyped, import-not-found"
"""RoIPool and its gradient: a program for each bin of each RoI."""

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


def max_of_cells(
    table: Float[Tensor, "cells C"],
    base: Int64[Tensor, " R"],
    width: Int64[Tensor, " R"],
    begin: Int64[Tensor, "R 2 bins"],
    end: Int64[Tensor, "R 2 bins"],
) -> Float[Tensor, "R PP C"]:
    """Return the maximum of each bin's cells, 0 where it has none; the twin of `roi_pool` once its bins are known.

    Of equal cells the first gets the gradient. Bins share cells, and their gradients are added up in float32 by
    atomic operations, in an order that differs from run to run: they are not the same bit for bit each time.

    Args:
        table: feature vectors, see `FlatPyramid`.
        base: row of the table where the map of each RoI's image and level begins.
        width: of that map.
        begin: first cell of each bin along x and along y.
        end: the cell after its last one.
    """
    maxima: Tensor = torch.ops.maskrcnn_triton.max_of_cells(table, base, width, begin, end)[0]
    return maxima


_MAX_OF_CELLS = define(
    "max_of_cells", "(Tensor table, Tensor base, Tensor width, Tensor begin, Tensor end) -> (Tensor, Tensor)"
)
_MAX_OF_CELLS_BACKWARD = define("max_of_cells_backward", "(Tensor gradient, Tensor rows, SymInt cells) -> Tensor")


@torch.library.impl(_MAX_OF_CELLS, DEVICES)
def _max_of_cells(table: Tensor, base: Tensor, width: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima and, for the gradient, the rows of the table they are from (−1 for none)."""
    table = table.contiguous()
    rois, _, bins = begin.shape
    maxima = table.new_empty(rois, bins * bins, table.shape[1])
    rows = torch.empty(maxima.shape, dtype=torch.int32, device=table.device)
    if maxima.numel():
        block, grid = _grid(maxima)
        args = (t.contiguous() for t in (base, width, begin, end))
        with on_device_of(table):
            _forward[grid](table, maxima, rows, *args, table.shape[1], bins, block, num_warps=WARPS, **LAUNCH)
    return maxima, rows


@torch.library.register_fake(_MAX_OF_CELLS)
def _(table: Tensor, base: Tensor, width: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    maxima = table.new_empty(begin.shape[0], begin.shape[2] ** 2, table.shape[1])
    return maxima, torch.empty(maxima.shape, dtype=torch.int32, device=table.device)


@torch.library.impl(_MAX_OF_CELLS_BACKWARD, DEVICES)
def _max_of_cells_backward(gradient: Tensor, rows: Tensor, cells: int) -> Tensor:
    gradient = gradient.contiguous()
    summed = torch.zeros(cells, gradient.shape[2], dtype=torch.float32, device=gradient.device)
    if gradient.numel():
        block, grid = _grid(gradient)
        with on_device_of(gradient):
            _backward[grid](summed, gradient, rows, gradient.shape[2], block, num_warps=WARPS, **LAUNCH)
    return summed.to(gradient.dtype)


@torch.library.register_fake(_MAX_OF_CELLS_BACKWARD)
def _(gradient: Tensor, rows: Tensor, cells: int) -> Tensor:
    return gradient.new_empty(cells, gradient.shape[2])


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.cells = inputs[0].shape[0]


def _gradient_of_table(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    (rows,) = ctx.saved_tensors
    return torch.ops.maskrcnn_triton.max_of_cells_backward(gradient, rows, ctx.cells), None, None, None, None


torch.library.register_autograd(_MAX_OF_CELLS, _gradient_of_table, setup_context=_keep_for_backward)


def _grid(of_bins: Tensor) -> tuple[int, tuple[int, int]]:
    """Return the channels of a program, and the programs: for bins, and for blocks of channels."""
    rois, bins, channels = of_bins.shape
    block = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    return block, (rois * bins, triton.cdiv(channels, block))


@triton.jit
@no_type_check
def _forward(
    table, maxima, rows, base, width, begin, end, CHANNELS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the maxima of one bin, and the rows of the table that have them."""
    one = tl.program_id(0).to(tl.int64)
    roi, number = one // (BINS * BINS), one % (BINS * BINS)
    x, y = roi * 2 * BINS + number % BINS, (roi * 2 + 1) * BINS + number // BINS
    left, right, top, bottom = tl.load(begin + x), tl.load(end + x), tl.load(begin + y), tl.load(end + y)
    start, across = tl.load(base + roi), tl.load(width + roi)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channel < CHANNELS
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_row = tl.full([BLOCK], -1, tl.int32)
    for line in range(top, bottom):
        for column in range(left, right):
            row = start + line * across + column
            value = tl.load(table + row * CHANNELS + channel, mask=there).to(tl.float32)
            better = value > best
            best = tl.where(better, value, best)
            best_row = tl.where(better, row.to(tl.int32), best_row)
    tl.store(maxima + one * CHANNELS + channel, tl.where(best_row < 0, 0.0, best), mask=there)
    tl.store(rows + one * CHANNELS + channel, best_row, mask=there)


@triton.jit
@no_type_check
def _backward(summed, gradient, rows, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Add one bin's gradient to those of the cells that gave its maxima."""
    one = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channel < CHANNELS
    row = tl.load(rows + one * CHANNELS + channel, mask=there, other=-1)
    part = tl.load(gradient + one * CHANNELS + channel, mask=there).to(tl.float32)
    tl.atomic_add(summed + row.to(tl.int64) * CHANNELS + channel, part, mask=there & (row >= 0), sem="relaxed")
