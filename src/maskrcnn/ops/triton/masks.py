# mypy: disable-error-code="misc, untyped-decorator, import-untyped, import-not-found"
"""Mask pasting: a program for each rectangle of each mask's picture."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from maskrcnn.ops.triton import DEVICES, LAUNCH, define, on_device_of

ROWS, COLUMNS = 8, 128
"""Pixels of a program."""


def paste_masks(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: str = "continuous",
    threshold: float = 0.5,
) -> Bool[Tensor, "D H W"]:
    """Return the masks laid on an image; the twin of `ops.masks.paste_masks`, with the same answer bit for bit.

    Boxes stay on the device: where a mask reaches is worked out there, in float64 as by the PyTorch version.
    """
    height, width = image_size
    whole = rule == "integer_box"
    pasted: Tensor = torch.ops.maskrcnn_triton.paste_masks(probabilities, boxes, height, width, whole, threshold)
    return pasted


_PASTE_MASKS = define(
    "paste_masks",
    "(Tensor probabilities, Tensor boxes, SymInt height, SymInt width, bool whole, float threshold) -> Tensor",
)


@torch.library.impl(_PASTE_MASKS, DEVICES)
def _paste_masks(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, whole: bool, threshold: float
) -> Tensor:
    pasted = torch.empty(boxes.shape[0], height, width, dtype=torch.bool, device=boxes.device)
    if pasted.numel():
        grid = (pasted.shape[0], triton.cdiv(height, ROWS), triton.cdiv(width, COLUMNS))
        with on_device_of(boxes):
            _paste[grid](
                probabilities.contiguous(),
                boxes.contiguous(),
                pasted.view(torch.uint8),
                threshold,
                height,
                width,
                probabilities.shape[-1],
                whole,
                ROWS,
                COLUMNS,
                num_warps=4,
                **LAUNCH,
            )
    return pasted


@torch.library.register_fake(_PASTE_MASKS)
def _(probabilities: Tensor, boxes: Tensor, height: int, width: int, whole: bool, threshold: float) -> Tensor:
    return torch.empty(boxes.shape[0], height, width, dtype=torch.bool, device=boxes.device)


@triton.jit
@no_type_check
def _reach(begin, end, SIZE: tl.constexpr, WHOLE: tl.constexpr):
    """Return the first and the last but one pixel that a mask reaches along one axis, and how pixels lie in it.

    The second pair is where its cells are counted from, and a cell's side. See `ops.masks`.
    """
    begin, end = begin.to(tl.float64), end.to(tl.float64)
    if WHOLE:
        half = (end - begin) * (SIZE + 2) / SIZE / 2
        middle = (begin + end) / 2
        first, last = (middle - half).to(tl.int32), (middle + half).to(tl.int32) + 1
        last = tl.maximum(last, first + 1)
        offset, cell = first.to(tl.float64), (last - first).to(tl.float64) / (SIZE + 2)
    else:
        cell = tl.maximum(end - begin, tl.full([], 1e-6, tl.float64)) / SIZE
        first, last = (begin - cell / 2 - 1).to(tl.int32), (end + cell / 2 + 1).to(tl.int32)
        offset = begin
    return first, last, offset.to(tl.float32), cell.to(tl.float32)


@triton.jit
@no_type_check
def _cells(pixel, offset, cell, SIZE: tl.constexpr, WHOLE: tl.constexpr):
    """Return, for each pixel, the cell before its centre and how far it is on the way to the next.

    Cells are counted from the one of zeros before the mask's first.
    """
    position = tl.div_rn(pixel.to(tl.float32) + 0.5 - offset, cell + tl.zeros_like(pixel).to(tl.float32))
    position = position - 0.5 if WHOLE else position + 0.5
    position = tl.minimum(tl.maximum(position, 0.0), SIZE + 1.0)
    before = tl.minimum(position.to(tl.int32), SIZE)
    return before, position - before.to(tl.float32)


@triton.jit
@no_type_check
def _probability(mask, row, column, wanted, SIZE: tl.constexpr):
    """Return the probabilities of cells, counted with the border of zeros."""
    row, column = row[:, None] - 1, column[None, :] - 1
    inside = (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)
    return tl.load(mask + row * SIZE + column, mask=inside & wanted, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["height"])
@no_type_check
def _paste(
    probabilities,
    boxes,
    pasted,
    threshold,
    height,
    width,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write one rectangle of one mask."""
    one = tl.program_id(0).to(tl.int64)
    box, mask = boxes + one * 4, probabilities + one * SIZE * SIZE
    left, right, offset_x, cell_x = _reach(tl.load(box), tl.load(box + 2), SIZE, WHOLE)
    top, bottom, offset_y, cell_y = _reach(tl.load(box + 1), tl.load(box + 3), SIZE, WHOLE)
    x, y = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    pixels = pasted + (one * height + y[:, None]) * width + x[None, :]
    there = (y < height)[:, None] & (x < width)[None, :]
    first_x, first_y = tl.program_id(2) * COLUMNS, tl.program_id(1) * ROWS
    if (first_x < right) & (first_x + COLUMNS > left) & (first_y < bottom) & (first_y + ROWS > top):
        reached = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]
        column, share_x = _cells(x, offset_x, cell_x, SIZE, WHOLE)
        row, share_y = _cells(y, offset_y, cell_y, SIZE, WHOLE)
        above = _probability(mask, row, column, reached, SIZE)
        below = _probability(mask, row + 1, column, reached, SIZE)
        above += (_probability(mask, row, column + 1, reached, SIZE) - above) * share_x[None, :]
        below += (_probability(mask, row + 1, column + 1, reached, SIZE) - below) * share_x[None, :]
        value = above + (below - above) * share_y[:, None]
        tl.store(pixels, ((value >= threshold) & reached).to(tl.uint8), mask=there)
    else:
        tl.store(pixels, tl.zeros([ROWS, COLUMNS], tl.uint8), mask=there)
