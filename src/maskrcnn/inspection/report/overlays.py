"""Shapes over the photo as SVG, so that one object can be lit up in every picture at once."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

Box = tuple[float, float, float, float]

BEFORE, AFTER, FOUND, REMOVED = "#f6c744", "#1bb9fa", "#ff7a45", "#ffffff"
"""Colours of anchors, proposals, detections, and of what NMS removed."""
MASK_SIDE = 160
"""Cells along the longer side of a mask's box in which its outline is traced."""


def photo_svg(size: tuple[int, int], shapes: Iterable[str], label: str, part: Box | None = None) -> str:
    """Return the photo with shapes over it.

    Args:
        size: (height, width) of the photo.
        shapes: in pixels of the photo.
        label: what the picture shows.
        part: what of the photo is shown; all of it by default.
    """
    height, width = size
    x1, y1, x2, y2 = part or (0.0, 0.0, float(width), float(height))
    return (
        f'<svg class="photo" viewBox="{x1:.1f} {y1:.1f} {x2 - x1:.1f} {y2 - y1:.1f}" role="group" '
        f'aria-label="{escape(label)}"><use href="#photo"/>{"".join(shapes)}</svg>'
    )


def box(corners: Box, color: str, of: str = "", title: str = "", dashed: bool = False, go: str = "") -> str:
    """Return a box.

    Args:
        corners: pixels of the photo.
        color: of its outline.
        of: what it belongs to; all shapes that share a word of it are lit up together.
        title: shown when it is pointed at.
        dashed: whether the outline is.
        go: the place of the report that a click opens.
    """
    x1, y1, x2, y2 = corners
    width, height = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
    return (
        f'<rect class="{"b dash" if dashed else "b"}" x="{x1:.1f}" y="{y1:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" '
        f'stroke="{color}"{_more(of, go)}>{_title(title)}</rect>'
    )


def arrow(start: tuple[float, float], end: tuple[float, float], color: str) -> str:
    """Return a line from one point to another, with a dot at its end."""
    (x1, y1), (x2, y2) = start, end
    return f'<path class="arrow" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{color}"/>'


def mask(shape: Bool[np.ndarray, "H W"], color: str, of: str, title: str, go: str = "") -> str:
    """Return a mask as a filled outline; nothing for an empty one."""
    path = outline(shape)
    if not path:
        return ""
    return (
        f'<path class="m" fill-rule="evenodd" d="{path}" fill="{color}" stroke="{color}"{_more(of, go)}>'
        f"{_title(title)}</path>"
    )


def point(x: float, y: float, radius: float, color: str, of: str) -> str:
    """Return a dot, as of a keypoint."""
    where = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return f'<circle class="m dot" {where} fill="{color}" stroke="#fff"{_more(of, "")}/>'


def text(x: float, y: float, words: str, size: float) -> str:
    """Return words on the photo."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.2f}" stroke-width="{size / 6:.2f}">{escape(words)}</text>'


def _more(of: str, go: str) -> str:
    said = f' data-obj="{escape(of)}"' if of else ""
    return said + (f' data-go="{escape(go)}" tabindex="0" role="button"' if go else "")


def _title(title: str) -> str:
    return f"<title>{escape(title)}</title>" if title else ""


def outline(shape: Bool[np.ndarray, "H W"]) -> str:
    """Return the border of a mask as an SVG path in its pixels; holes are loops of their own.

    Large masks are traced on a coarser grid.

    Example:
        >>> outline(np.array([[False, False, False], [False, True, True]]))
        'M1 1H3V2H1Z'
    """
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    if not len(rows):
        return ""
    top, left = int(rows[0]), int(columns[0])
    step = max(-(-max(int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left) // MASK_SIDE), 1)
    cells = shape[top : rows[-1] + 1, left : columns[-1] + 1][step // 2 :: step, step // 2 :: step]
    if not cells.any():
        cells = np.ones((1, 1), bool)
    loops = _loops(np.pad(cells, 1))
    return "".join(_path([(left + step * (x - 1), top + step * (y - 1)) for x, y in loop]) for loop in loops)


def _loops(cells: Bool[np.ndarray, "h w"]) -> list[list[tuple[int, int]]]:
    """Return the closed borders between inside and outside, corner by corner, the inside at the right."""
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def edges(inside: Bool[np.ndarray, "h w"], begin: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in np.argwhere(inside).tolist():
            after.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))

    above, below, before, behind = (np.roll(cells, *by) for by in ((1, 0), (-1, 0), (1, 1), (-1, 1)))
    edges(cells & ~above, (0, 0), (1, 0))
    edges(cells & ~behind, (1, 0), (1, 1))
    edges(cells & ~below, (1, 1), (0, 1))
    edges(cells & ~before, (0, 1), (0, 0))
    loops = []
    while after:
        start = next(iter(after))
        loop, point = [start], _next(after, start)
        while point != start:
            loop.append(point)
            point = _next(after, point)
        loops.append(loop)
    return loops


def _next(after: dict[tuple[int, int], list[tuple[int, int]]], point: tuple[int, int]) -> tuple[int, int]:
    ends = after[point]
    end = ends.pop()
    if not ends:
        del after[point]
    return end


def _path(loop: list[tuple[int, int]]) -> str:
    """Return a loop of horizontal and vertical steps, those in one direction joined."""
    corners = [
        point
        for before, point, behind in zip([loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True)
        if (before[0] == point[0]) != (point[0] == behind[0])
    ]
    path = f"M{corners[0][0]} {corners[0][1]}"
    for before, point in pairwise(corners):
        path += f"H{point[0]}" if point[1] == before[1] else f"V{point[1]}"
    return path + "Z"
