"""Anchors: the boxes that one cell of a level begins with, on the photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from maskrcnn.drawing import RGB
from maskrcnn.errors import InputError
from maskrcnn.inspection.pictures.canvas import Box, Sketch, sheet_of
from maskrcnn.inspection.pictures.colors import heat, level_color
from maskrcnn.inspection.pictures.views import (
    Level,
    boxes_in_photo,
    cell_in_photo,
    level_of,
    levels_of,
    photo_view,
    stage_of,
    window_of,
)
from maskrcnn.inspection.trace import Trace

OUTSIDE: RGB = (222, 226, 230)
"""What lies around the photo, where anchors reach over its border."""
MOST_LABELLED, LEAST_LABELLED = 6, 100.0
"""Boxes with labels, and pixels of the longer side from which on a label does not hide its box."""
FEWEST = 12.0
"""Pixels of a cell from which on the grid is drawn."""
GRID: tuple[RGB, float] = (255, 255, 255), 0.34
"""Its colour, and its lines' width."""


def anchors_at(
    trace: Trace, level: str, cells: Sequence[tuple[int, int]] | None = None, max_side: int = 1000
) -> Image.Image:
    """Return all anchors of some cells of a level, on the photo and on the level's grid.

    Their width and height in pixels of the network's input are written at them if they are few. Of a level with several
    sizes each size has a colour of its own, from dark to bright as they grow.

    Args:
        trace: of a whole run.
        level: as `p3`.
        cells: (row, column) of each; by default the cell with the best anchor in the photo.
        max_side: of the photo, as in `photo_view`; where anchors reach over its border the picture is larger.

    Raises:
        InputError: the RPN looks at no such level, or it has no such cell.
    """
    where = level_of(trace, level)
    chosen = [_best_cell(trace, where)] if cells is None else list(cells)
    for row, column in chosen:
        if not (0 <= row < where.rows and 0 <= column < where.columns):
            raise InputError(
                f"{level} has no cell ({row}, {column}); its rows are 0 to {where.rows - 1}, its columns 0 to "
                f"{where.columns - 1}."
            )
    return _drawn(trace, where, chosen, max_side)


def anchor_sheet(trace: Trace) -> Image.Image:
    """Return the anchors of one cell of every level, with how many there are in all."""
    levels = levels_of(trace)
    side = 1000 if len(levels) == 1 else 340
    cells = {level.name: [_best_cell(trace, level)] for level in levels}
    size = photo_view(trace, side)[0].size
    rims = [_rim(_boxes(trace, level, cells[level.name], side)[1], size) for level in levels]
    rim = Rim(*(max(sides) for sides in zip(*rims, strict=True)))
    panels = [(_drawn(trace, level, cells[level.name], side, rim), _caption(trace, level)) for level in levels]
    return sheet_of(panels, columns=3 if panels[0][0].width < 1.3 * panels[0][0].height else 2)


def _caption(trace: Trace, level: Level) -> str:
    each = trace.run.config.anchors.per_cell
    sizes = " ".join(f"{size:g}" for size in trace.run.config.anchors.sizes[level.number])
    return f"{level.name}: {each} of {sizes} pixels at {level.columns} x {level.rows} cells, {level.count:,} in all"


def _best_cell(trace: Trace, level: Level) -> tuple[int, int]:
    """Return row and column of the cell whose best anchor has the greatest objectness, of those in the photo."""
    rows, columns = window_of(trace, float(level.stride)).cells
    scores = stage_of(trace, "rpn_objectness")[0, level.anchors].reshape(level.rows, level.columns, -1).amax(-1)
    inside = scores[rows, columns].nan_to_num(-torch.inf)
    row, column = divmod(int(inside.argmax()), inside.shape[1])
    return row + rows.start, column + columns.start


def _boxes(
    trace: Trace, level: Level, cells: list[tuple[int, int]], max_side: int
) -> tuple[Float[Tensor, "A 4"], list[Box]]:
    """Return the anchors of some cells, in the input frame and on the photo as it is shown."""
    per_cell = trace.run.config.anchors.per_cell
    firsts = [level.first + (row * level.columns + column) * per_cell for row, column in cells]
    anchors = stage_of(trace, "anchors")[[first + k for first in firsts for k in range(per_cell)]]
    return anchors, boxes_in_photo(trace, anchors, photo_view(trace, max_side)[1])


def _drawn(
    trace: Trace, level: Level, cells: list[tuple[int, int]], max_side: int, rim: Rim | None = None
) -> Image.Image:
    photo, scale = photo_view(trace, max_side)
    anchors, boxes = _boxes(trace, level, cells, max_side)
    rim = rim or _rim(boxes, photo.size)
    size = (rim.left + photo.width + rim.right, rim.top + photo.height + rim.bottom)
    canvas = Image.new("RGB", size, OUTSIDE)
    canvas.paste(photo, (rim.left, rim.top))
    sketch = Sketch(canvas)
    _draw_grid(sketch, trace, level, scale, rim, photo.size)
    for row, column in cells:
        cell = _shifted(cell_in_photo(trace, row, column, float(level.stride), scale), rim)
        sketch.fill(cell, level_color(level.name), 0.6)
        sketch.box(cell, (255, 255, 255), 1.0)
    sizes = (anchors[:, 2:] - anchors[:, :2]).tolist()
    inks = _inks(trace, level) * len(cells)
    placed = [_shifted(box, rim) for box in boxes]
    for box, ink in zip(placed, inks, strict=True):
        sketch.box(box, ink, 2.5)
    if len(placed) <= MOST_LABELLED:
        for box, ink, (width, height) in zip(placed, inks, sizes, strict=True):
            if max(box[2] - box[0], box[3] - box[1]) >= LEAST_LABELLED:
                sketch.label((box[0], box[1]), f"{width:.0f} x {height:.0f}", ink, 13)
    return sketch.finished()


def _inks(trace: Trace, level: Level) -> list[RGB]:
    """Return a colour for each anchor of a cell."""
    sizes, ratios = (len(trace.run.config.anchors.sizes[level.number]), len(trace.run.config.anchors.ratios))
    if sizes == 1:
        return [level_color(level.name)] * ratios
    shades = heat(np.linspace(0.3, 1.0, sizes)[None], 0.0, 1.0)[0].tolist()
    return [(red, green, blue) for red, green, blue in shades for _ in range(ratios)]


class Rim(NamedTuple):
    """Pixels around the photo."""

    left: int
    top: int
    right: int
    bottom: int


def _rim(boxes: list[Box], size: tuple[int, int]) -> Rim:
    """Return how far boxes reach over the photo's border, at most half its longer side."""
    over = (
        *(-min(box[axis] for box in boxes) for axis in (0, 1)),
        *(max(box[axis + 2] for box in boxes) - size[axis] for axis in (0, 1)),
    )
    return Rim(*(min(round(o) + 4, max(size) // 2) if o > 0 else 0 for o in over))


def _shifted(box: Box, rim: Rim) -> Box:
    return box[0] + rim.left, box[1] + rim.top, box[2] + rim.left, box[3] + rim.top


def _draw_grid(sketch: Sketch, trace: Trace, level: Level, scale: float, rim: Rim, size: tuple[int, int]) -> None:
    """Draw the borders of the level's cells on the photo, where they are far enough apart."""
    first = cell_in_photo(trace, 0, 0, float(level.stride), scale)
    step = (first[2] - first[0], first[3] - first[1])
    if min(step) < FEWEST:
        return
    for k in range(level.columns + 1):
        x = first[0] + k * step[0]
        if 0 <= x <= size[0]:
            sketch.line([(x + rim.left, float(rim.top)), (x + rim.left, float(rim.top + size[1]))], *GRID, rim=False)
    for k in range(level.rows + 1):
        y = first[1] + k * step[1]
        if 0 <= y <= size[1]:
            sketch.line([(float(rim.left), y + rim.top), (float(rim.left + size[0]), y + rim.top)], *GRID, rim=False)
