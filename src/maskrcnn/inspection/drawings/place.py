"""Helps to lay out a sheet: boxes in rows and columns, arrows in horizontal and vertical segments, frames, legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from maskrcnn.inspection.drawings.sheet import (
    ASCENT,
    LINE,
    Anchor,
    Arrow,
    Box,
    Group,
    Kind,
    Point,
    Sheet,
    Swatch,
    TextLine,
    Tone,
)
from maskrcnn.inspection.drawings.text import width
from maskrcnn.inspection.parts import PARTS, PartName

Side = Literal["left", "right", "top", "bottom"]
MARGIN = 22.0
FRAME = 11.0
"""From a frame to the boxes inside."""
HEADING = 27.0
"""From the top of a frame to the boxes inside, its title between."""
LEGEND = 20.0
"""Height of the legend."""


def same_width(boxes: Sequence[Box], least: float = 0.0) -> None:
    """Make boxes as wide as the widest of them."""
    wide = max([least, *(box.w for box in boxes)])
    for box in boxes:
        box.w = wide


def same_height(boxes: Sequence[Box]) -> None:
    """Make boxes as high as the highest of them."""
    high = max(box.h for box in boxes)
    for box in boxes:
        box.h = high


def put(box: Box, x: float | None = None, y: float | None = None) -> Box:
    """Give a box the place of its middle; None leaves a coordinate."""
    if x is not None:
        box.x = x - box.w / 2
    if y is not None:
        box.y = y - box.h / 2
    return box


def row(boxes: Iterable[Box], x: float, middle: float, gap: float) -> float:
    """Put boxes side by side with their middles at one height; return the x of the last one's right side."""
    for box in boxes:
        box.x = x
        put(box, y=middle)
        x = box.right + gap
    return x - gap


def port(box: Box, side: Side, at: float = 0.5) -> Point:
    """Return the point on a side of a box, `at` of its length from the left or the top."""
    if side in ("left", "right"):
        return (box.left if side == "left" else box.right), box.y + at * box.h
    return box.x + at * box.w, (box.y if side == "top" else box.bottom)


def route(start: Point, across: bool, end: Point, end_across: bool, via: Sequence[float]) -> list[Point]:
    """Return a way of horizontal and vertical segments.

    Args:
        start: where it begins.
        across: whether the first segment is horizontal.
        end: where it ends.
        end_across: whether the last segment is horizontal.
        via: where it turns: the x that a horizontal segment goes to, the y that a vertical one goes to, in turn.
    """
    points, horizontal = [start], across
    for coordinate in via:
        x, y = points[-1]
        points.append((coordinate, y) if horizontal else (x, coordinate))
        horizontal = not horizontal
    x, y = points[-1]
    if horizontal == end_across:
        points.append((end[0], y) if horizontal else (x, end[1]))
    else:
        points.append((end[0], y) if horizontal else (x, end[1]))
    points.append(end)
    kept = [points[0]]
    for point in points[1:]:
        if abs(point[0] - kept[-1][0]) + abs(point[1] - kept[-1][1]) > 0.01:
            kept.append(point)
    return _without_needless(kept)


def _without_needless(points: list[Point]) -> list[Point]:
    kept = points[:1]
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        straight = (before[0] == point[0] == after[0]) or (before[1] == point[1] == after[1])
        if not straight:
            kept.append(point)
    return [*kept, points[-1]]


def link(
    sheet: Sheet,
    source: Box,
    side: Side,
    target: Box,
    end_side: Side,
    via: Sequence[float] = (),
    at: float = 0.5,
    end_at: float = 0.5,
) -> Arrow:
    """Add an arrow from a side of one box to a side of another; see `route`.

    Boxes that overlap in height (or width) are joined by a straight line without `via`, if their ports are nearly at
    one height.
    """
    start, end = port(source, side, at), port(target, end_side, end_at)
    across, end_across = side in ("left", "right"), end_side in ("left", "right")
    if not via and across and end_across and start[1] != end[1]:
        via = [(start[0] + end[0]) / 2]
    if not via and not across and not end_across and start[0] != end[0]:
        via = [(start[1] + end[1]) / 2]
    arrow = Arrow(source.key, target.key, route(start, across, end, end_across, via))
    sheet.arrows.append(arrow)
    return arrow


def chain(sheet: Sheet, boxes: Sequence[Box], side: Side = "right", end_side: Side = "left") -> None:
    """Join each box to the next by an arrow."""
    for before, after in pairwise(boxes):
        link(sheet, before, side, after, end_side)


def label(
    arrow: Arrow,
    lines: Sequence[str],
    x: float,
    y: float,
    size: float = 12.0,
    anchor: Anchor = "middle",
    tone: Tone = "muted",
    part: PartName = "input",
) -> None:
    """Write lines beside an arrow; `y` is the lower end of the last line."""
    top = y - len(lines) * size * LINE
    for number, line in enumerate(lines):
        baseline = top + number * size * LINE + ASCENT * size
        arrow.labels.append(TextLine(line, x, baseline, size, False, anchor, tone, part))


def frame(
    sheet: Sheet,
    key: str,
    part: PartName,
    title: str,
    boxes: Sequence[Box],
    parent: str = "",
    note: str = "",
) -> Group:
    """Add a frame around boxes; those around others have to come first."""
    left, top = min(b.left for b in boxes), min(b.y for b in boxes)
    right, bottom = max(b.right for b in boxes), max(b.bottom for b in boxes)
    group = Group(key, part, title, tuple(b.key for b in boxes), parent=parent, note=note)
    group.x, group.y = left - FRAME, top - HEADING
    group.w, group.h = right - left + 2 * FRAME, bottom - top + HEADING + FRAME
    texts = group.text()
    needed = sum(width(line.text, line.size, line.bold) for line in texts) + 22 + 12 * (len(texts) - 1)
    group.w = max(group.w, needed)
    sheet.groups.append(group)
    return group


def text_block(
    sheet: Sheet, lines: Sequence[str], x: float, y: float, size: float, bold: bool = False, tone: Tone = "muted"
) -> float:
    """Write lines from the left, from `y` down; return where the next would begin."""
    for line in lines:
        sheet.texts.append(TextLine(line, x, y + ASCENT * size, size, bold, "start", tone))
        y += size * LINE
    return y


_KINDS: dict[Kind, str] = {
    "layer": "layer",
    "step": "step by rule, nothing learned",
    "tensor": "tensor handed on",
}


def legend(
    sheet: Sheet,
    y: float,
    right: float,
    kinds: Sequence[Kind],
    notes: Sequence[str] = (),
    size: float = 12.0,
    parts: Mapping[str, str] | None = None,
) -> float:
    """Add the colours of the parts that are on the sheet, the kinds of boxes, and abbreviations; return the lower end.

    It takes another line where it would pass `right`. `parts` is what to say of each part, by default its name.
    """
    there = {box.part for box in sheet.boxes}
    said = parts or {name: part.title for name, part in PARTS.items()}
    entries: list[tuple[PartName, Kind | Literal["frame", "note"], str]] = [
        (part.name, "frame", f"{part.number} {said[part.name]}")
        for part in PARTS.values()
        if part.name in there and part.number
    ]
    entries += [("input", kind, _KINDS[kind]) for kind in kinds]
    entries += [("input", "note", words) for words in notes]
    x, high = MARGIN, size
    for part, kind, words in entries:
        needed = width(words, size) + (0 if kind == "note" else 26)
        if x > MARGIN and x + needed > right:
            x, y = MARGIN, y + LEGEND
        if kind != "note":
            sheet.legend.append(Swatch(part, kind, x, y + (LEGEND - high) / 2, 20.0, high))
        left, baseline = x + needed - width(words, size), y + LEGEND / 2 + 0.36 * size
        sheet.texts.append(TextLine(words, left, baseline, size, False, "start", "muted"))
        x += needed + 18
    return y + LEGEND


def finish(sheet: Sheet, right: float, bottom: float) -> Sheet:
    """Set the sheet's size so that all is inside with a margin."""
    extents = [line.extent for line in sheet.all_text()]
    sheet.width = max([sheet.width, right + MARGIN, *(e[2] + MARGIN for e in extents)])
    sheet.height = max(sheet.height, bottom + MARGIN)
    return sheet


def heading(sheet: Sheet, size: float = 21.0) -> float:
    """Write title and subtitle at the top; return the y where the drawing may begin."""
    y = text_block(sheet, [sheet.title], MARGIN, MARGIN - 8, size, bold=True, tone="ink")
    y = text_block(sheet, [sheet.subtitle], MARGIN, y, max(12.0, size * 0.6))
    return y + 10
