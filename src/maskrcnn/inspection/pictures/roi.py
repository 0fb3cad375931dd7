"""RoIAlign for one RoI: what it reads on the feature map and what comes out, beside RoIPool's rounding."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from maskrcnn.drawing import RGB
from maskrcnn.errors import InputError
from maskrcnn.inspection.pictures.canvas import Box, Point, Sketch, enlarged, sheet_of, stacked
from maskrcnn.inspection.pictures.colors import CUT, PAPER, heat, scale_bar, value_range
from maskrcnn.inspection.pictures.roi_geometry import Of, RoIGeometry, roi_geometry
from maskrcnn.inspection.pictures.views import cell_in_photo, moved_box, photo_part, stage_of
from maskrcnn.inspection.trace import Trace

BOX: RGB = (255, 255, 255)
READ: RGB = (0xF7, 0x70, 0x36)
"""What is read: sampling points, and RoIPool's cells."""
PANEL = 420
FEWEST = 6
"""Pixels that a cell has at least for its border to be drawn."""


def roi_align(trace: Trace, roi: int = 0, of: Of = "proposals", channel: int | None = None) -> Image.Image:
    """Return one RoI on the grid of its level, its bins, its sampling points and its crop; below the same by RoIPool.

    Args:
        trace: of a whole run.
        roi: its number from 0, the best.
        of: as in `roi_geometry`.
        channel: of the feature map and the crops; by default the one that differs most within the crop.

    Raises:
        NothingToShowError: there is no proposal, no detection, or no such head.
        InputError: there are fewer RoIs or channels.
    """
    panels, scale = roi_panels(trace, roi, of, channel)
    sheet = sheet_of(panels, columns=3)
    return stacked([sheet, scale_bar(sheet.width, f"{scale.low:.3g}", f"{scale.high:.3g}", scale.what)])


class Scale(NamedTuple):
    """What the darkest and the brightest colour of a picture stand for."""

    low: float
    high: float
    what: str


def roi_panels(
    trace: Trace, roi: int = 0, of: Of = "proposals", channel: int | None = None
) -> tuple[list[tuple[Image.Image, str]], Scale]:
    """Return the pictures of `roi_align` one by one, each with its caption: three of RoIAlign, three of RoIPool."""
    geometry = roi_geometry(trace, roi, of)
    if channel is None:
        channel = int(geometry.crop.flatten(1).std(1).nan_to_num(-1).argmax())
    if not 0 <= channel < len(geometry.crop):
        raise InputError(f"There is no channel {channel}; there are {len(geometry.crop)}, counted from 0.")
    values = stage_of(trace, geometry.level)[0, channel].numpy()
    left, top, right, bottom = window = _window(geometry)
    crops = [crop[channel].numpy() for crop in (geometry.crop, geometry.pool_crop)]
    low, high = value_range(
        np.concatenate([part.flatten() for part in (values[top:bottom, left:right], *crops)])[None], CUT
    )
    grid, unit = _grid(values, window, low, high)
    aligned, pooled = (enlarged(Image.fromarray(heat(crop, low, high)), PANEL) for crop in crops)
    panels = [
        (_on_photo(trace, geometry, pooled=False), "the RoI in the photo"),
        (_sampled(grid, unit, window, geometry), _caption(geometry)),
        (aligned, f"the {geometry.size} x {geometry.size} crop that comes out"),
        (_on_photo(trace, geometry, pooled=True), "solid: what RoIPool takes for it"),
        (_rounded(grid, unit, window, geometry), f"RoIPool: whole cells, {_off(geometry)}; a bin keeps the largest"),
        (pooled, "RoIPool's crop"),
    ]
    return panels, Scale(low, high, f"channel {channel} of {geometry.level}")


def _caption(geometry: RoIGeometry) -> str:
    x, y = geometry.samples
    size = f"{geometry.size} x {geometry.size}"
    where = f"{geometry.level}, stride {geometry.stride}"
    if geometry.method == "crop_and_resize":
        return f"crop_and_resize on {where}: {size} points from border to border"
    would = " would read" if geometry.method == "pool" else ""
    return f"RoIAlign{would} on {where}: {size} bins of {x} x {y} points"


def _off(geometry: RoIGeometry) -> str:
    """Return how far RoIPool's region is from the RoI, at worst, in pixels of the network's input."""
    off = max(abs(a - b) for a, b in zip(geometry.box, geometry.pool_box, strict=True))
    return f"off by up to {off * geometry.stride:.1f} input pixels"


def _window(geometry: RoIGeometry) -> tuple[int, int, int, int]:
    """Return the cells to show: those of the RoI, of RoIPool's and of the points, and one around."""
    boxes = [geometry.box, geometry.pool_box]
    boxes.append((geometry.points_x[0], geometry.points_y[0], geometry.points_x[-1], geometry.points_y[-1]))
    left, top = (max(math.floor(min(b[k] for b in boxes)) - 1, 0) for k in (0, 1))
    right, bottom = (
        min(math.ceil(max(b[k + 2] for b in boxes)) + 1, n) for k, n in ((0, geometry.columns), (1, geometry.rows))
    )
    left, top = min(left, geometry.columns - 1), min(top, geometry.rows - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _grid(
    values: Float[np.ndarray, "H W"], window: tuple[int, int, int, int], low: float, high: float
) -> tuple[Image.Image, float]:
    """Return the cells of a window as squares of colour, and how many pixels each has."""
    left, top, right, bottom = window
    unit = max(PANEL // max(right - left, bottom - top), 1)
    cells = Image.fromarray(heat(values[top:bottom, left:right], low, high))
    grid = cells.resize((cells.width * unit, cells.height * unit), Image.Resampling.NEAREST)
    if unit < FEWEST:
        return grid, float(unit)
    sketch = Sketch(grid)
    width, height = float(grid.width), float(grid.height)
    for x in range(1, right - left):
        sketch.line([(float(x * unit), 0.0), (float(x * unit), height)], PAPER, 0.34, rim=False)
    for y in range(1, bottom - top):
        sketch.line([(0.0, float(y * unit)), (width, float(y * unit))], PAPER, 0.34, rim=False)
    return sketch.finished(), float(unit)


def _sampled(grid: Image.Image, unit: float, window: tuple[int, int, int, int], geometry: RoIGeometry) -> Image.Image:
    """Return the grid with the RoI, its bins and its points."""
    sketch = Sketch(grid)
    xs, ys = geometry.edges_x, geometry.edges_y
    for x in xs:
        sketch.line([_placed((x, ys[0]), unit, window), _placed((x, ys[-1]), unit, window)], BOX, 1.0, rim=False)
    for y in ys:
        sketch.line([_placed((xs[0], y), unit, window), _placed((xs[-1], y), unit, window)], BOX, 1.0, rim=False)
    sketch.box(_placed_box(geometry.box, unit, window), BOX, 3.0)
    radius = _radius(geometry, unit)
    for y in geometry.points_y:
        for x in geometry.points_x:
            sketch.dot(_placed((x, y), unit, window), READ, radius, (0, 0, 0) if radius >= 2 else None)
    return sketch.finished()


def _radius(geometry: RoIGeometry, unit: float) -> float:
    """Return a radius that leaves the points apart."""
    axes = (geometry.points_x[:2], geometry.points_y[:2])
    gaps = [abs(axis[1] - axis[0]) * unit for axis in axes if len(axis) == 2]
    return min(max(min(gaps, default=10.0) * 0.35, 0.7), 4.0)


def _rounded(grid: Image.Image, unit: float, window: tuple[int, int, int, int], geometry: RoIGeometry) -> Image.Image:
    """Return the grid with the RoI and the cells of RoIPool's bins."""
    sketch = Sketch(grid)
    inset = min(unit * 0.12, 3.0)
    for y1, y2 in geometry.pool_y:
        for x1, x2 in geometry.pool_x:
            if x2 > x1 and y2 > y1:
                a, b, c, d = _placed_box((float(x1), float(y1), float(x2), float(y2)), unit, window)
                sketch.box((a + inset, b + inset, c - inset, d - inset), READ, 1.5)
    sketch.box(_placed_box(geometry.box, unit, window), BOX, 3.0, "dashed")
    return sketch.finished()


def _on_photo(trace: Trace, geometry: RoIGeometry, pooled: bool) -> Image.Image:
    x1, y1, x2, y2 = geometry.pool_box
    first = cell_in_photo(trace, int(y1), int(x1), float(geometry.stride), 1.0)
    last = cell_in_photo(trace, max(int(y2) - 1, 0), max(int(x2) - 1, 0), float(geometry.stride), 1.0)
    taken = (first[0], first[1], last[2], last[3])
    both = list(zip(geometry.box_in_photo, taken, strict=True))
    around = (min(both[0]), min(both[1]), max(both[2]), max(both[3]))
    picture, part, scale = photo_part(trace, around, PANEL, margin=0.08)
    sketch = Sketch(picture)
    if pooled:
        sketch.box(moved_box(taken, part, scale), READ, 3.0)
    sketch.box(moved_box(geometry.box_in_photo, part, scale), BOX, 2.5, "dashed" if pooled else "solid")
    return sketch.finished()


def _placed(point: Point, unit: float, window: tuple[int, int, int, int]) -> Point:
    return (point[0] - window[0]) * unit, (point[1] - window[1]) * unit


def _placed_box(box: Box, unit: float, window: tuple[int, int, int, int]) -> Box:
    return *_placed((box[0], box[1]), unit, window), *_placed((box[2], box[3]), unit, window)
