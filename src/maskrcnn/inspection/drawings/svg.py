"""SVG of a sheet; alone in a file, or inside a page, where boxes can be chosen and colours follow the page's theme."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from maskrcnn.inspection.drawings.sheet import Box, Group, Point, Shape, Sheet, Swatch, TextLine
from maskrcnn.inspection.parts import PARTS

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
COLOURS = {
    "paper": "#ffffff",
    "ink": "#1d2733",
    "muted": "#56626f",
    "line": "#46525f",
    "mark": "#c01f1f",
    **{f"{part.name}-fill": part.fill for part in PARTS.values()},
    **{f"{part.name}-ink": part.ink for part in PARTS.values()},
}
"""Every colour by the name of its CSS property."""
BEND = 7.0
"""Radius of an arrow's bends."""
HEAD = (8.0, 3.6)
"""Length and half width of an arrow's head."""


def svg(sheet: Sheet, interactive: bool = False) -> str:
    """Return a sheet as SVG.

    Args:
        sheet: the sheet.
        interactive: give boxes what a page needs to let a reader choose them (`class`, `data-key`, `data-part`,
            `data-stages`, `tabindex`, `role`, `aria-label`), leave the background free, and take colours from CSS
            custom properties (`--paper`, `--ink`, `--muted`, `--line`, `--mark`, and for each part `--rpn-fill` and
            `--rpn-ink`) where the page sets them.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.inspection.drawings import draw
        >>> text = svg(draw(Config.preset(class_names=["cat"]), "parts").sheets[0])
        >>> text.startswith("<svg xmlns")
        True
    """
    return _Writer(sheet, interactive).whole()


class _Writer:
    def __init__(self, sheet: Sheet, interactive: bool) -> None:
        self.sheet = sheet
        self.interactive = interactive

    def whole(self) -> str:
        sheet = self.sheet
        size = f"{_n(sheet.width)} {_n(sheet.height)}"
        what = quoteattr(f"{sheet.title}. {sheet.subtitle}")
        role = "group" if self.interactive else "img"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="{role}" aria-label={what} '
            f'font-family="{FONT}">'
        ]
        if not self.interactive:
            parts.append(f'<rect width="{_n(sheet.width)}" height="{_n(sheet.height)}" {self.paint("paper")}/>')
        parts += [self.group(group) for group in sheet.groups]
        parts += self.arrows()
        parts += [self.box(box) for box in sheet.boxes]
        parts += [self.shape(shape) for shape in sheet.shapes]
        parts += [self.swatch(swatch) for swatch in sheet.legend]
        parts += [self.text(line) for line in sheet.texts]
        parts += [self.text(line) for arrow in sheet.arrows for line in arrow.labels]
        return "\n".join([*parts, "</svg>"]) + "\n"

    def paint(self, fill: str = "", stroke: str = "") -> str:
        """Return fill and stroke, each the name of a colour."""
        if self.interactive:
            both = [f"{what}:{self.colour(name)}" for what, name in (("fill", fill), ("stroke", stroke)) if name]
            return f'style="{";".join(both)}"'
        return " ".join(f'{what}="{self.colour(name)}"' for what, name in (("fill", fill), ("stroke", stroke)) if name)

    def colour(self, name: str) -> str:
        plain = COLOURS.get(name, name)
        return f"var(--{name}, {plain})" if self.interactive and name in COLOURS else plain

    def text(self, line: TextLine) -> str:
        tone = f"{line.part}-ink" if line.tone == "part" else line.tone
        bold = ' font-weight="600"' if line.bold else ""
        anchor = "" if line.anchor == "start" else f' text-anchor="{line.anchor}"'
        under = ' text-decoration="underline"' if line.tone == "mark" else ""
        return (
            f'<text x="{_n(line.x)}" y="{_n(line.y)}" font-size="{_n(line.size)}"{bold}{anchor}{under} '
            f"{self.paint(tone)}>{escape(line.text)}</text>"
        )

    def box(self, box: Box) -> str:
        inner = self.outline(box) + "".join(self.text(line) for line in box.text())
        if not self.interactive:
            return f"<g>{inner}</g>"
        words = quoteattr(". ".join((box.title, *box.lines)))
        return (
            f'<g class="box" data-key={quoteattr(box.key)} data-part="{box.part}" data-kind="{box.kind}" '
            f"data-stages={quoteattr(' '.join(box.stages))} data-layers={quoteattr(' '.join(box.layers))} "
            f'tabindex="0" role="button" aria-label={words}>{inner}</g>'
        )

    def outline(self, box: Box) -> str:
        stroke, wide = ("mark", 2.6) if box.mark else (f"{box.part}-ink", 1.2)
        paint = self.paint("paper" if box.kind != "layer" else f"{box.part}-fill", stroke)
        if box.circle:
            x, y = box.middle
            return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(box.w / 2)}" stroke-width="{wide}" {paint}/>'
        radius = {"layer": 5.0, "step": 5.0, "tensor": min(box.h / 2, 16.0)}[box.kind]
        dashes = ' stroke-dasharray="5 3"' if box.kind == "step" else ""
        return self.rect(box.x, box.y, box.w, box.h, radius, f'stroke-width="{wide}"{dashes} {paint}')

    def rect(self, x: float, y: float, w: float, h: float, radius: float, rest: str) -> str:
        return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" rx="{_n(radius)}" {rest}/>'

    def group(self, group: Group) -> str:
        ink = f"{group.part}-ink"
        if group.mark:
            rest = f'stroke-width="2" stroke-dasharray="2 3" {self.paint("none", "mark")}'
        elif group.parent:
            rest = f'stroke-width="1.1" stroke-dasharray="2 3" {self.paint("none", ink)}'
        else:
            rest = f'fill-opacity="0.35" stroke-opacity="0.55" stroke-width="1" {self.paint(f"{group.part}-fill", ink)}'
        texts = "".join(self.text(line) for line in group.text())
        return f"<g>{self.rect(group.x, group.y, group.w, group.h, 9.0, rest)}{texts}</g>"

    def arrows(self) -> list[str]:
        """Return all arrows as one path, so that where lines run together they look like one."""
        some = [arrow.points for arrow in self.sheet.arrows]
        way = "".join(_path(points) for points in some)
        tips = dict.fromkeys("M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in head(p)) + "Z" for p in some)
        return [
            f'<path d="{way}" stroke-width="1.5" {self.paint("none", "line")}/>',
            f'<path d="{"".join(tips)}" {self.paint("line")}/>',
        ]

    def swatch(self, swatch: Swatch) -> str:
        x, y, w, h = swatch.x, swatch.y, swatch.w, swatch.h
        if swatch.kind == "frame":
            return self.rect(x, y, w, h, 3.0, self.paint(f"{swatch.part}-fill", f"{swatch.part}-ink"))
        if swatch.kind == "mark":
            return self.rect(x, y, w, h, 3.0, f'stroke-width="2.6" {self.paint("none", "mark")}')
        radius = {"layer": 2.0, "step": 2.0, "tensor": h / 2}[swatch.kind]
        dashes = 'stroke-dasharray="4 2" ' if swatch.kind == "step" else ""
        fill = "input-fill" if swatch.kind == "layer" else "none"
        return self.rect(x, y, w, h, radius, dashes + self.paint(fill, f"{swatch.part}-ink"))

    def shape(self, shape: Shape) -> str:
        ink = f"{shape.part}-ink"
        fill = {"none": "none", "pale": f"{shape.part}-fill", "ink": ink, "paper": "paper"}[shape.fill]
        paint = f'stroke-width="{_n(shape.thick)}" {self.paint(fill, ink)}'
        (x1, y1), (x2, y2) = shape.points[0], shape.points[-1]
        if shape.form == "line":
            return f'<polyline points="{" ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)}" {paint}/>'
        if shape.form == "ellipse":
            return (
                f'<ellipse cx="{_n((x1 + x2) / 2)}" cy="{_n((y1 + y2) / 2)}" rx="{_n((x2 - x1) / 2)}" '
                f'ry="{_n((y2 - y1) / 2)}" {paint}/>'
            )
        return self.rect(x1, y1, x2 - x1, y2 - y1, 1.5, paint)


def head(points: Sequence[Point]) -> list[Point]:
    """Return the triangle at the end of an arrow."""
    (x0, y0), (x1, y1) = points[-2], points[-1]
    far = abs(x1 - x0) + abs(y1 - y0)
    dx, dy = (x1 - x0) / far, (y1 - y0) / far
    long, half = HEAD
    return [
        (x1, y1),
        (x1 - long * dx + half * dy, y1 - long * dy - half * dx),
        (x1 - long * dx - half * dy, y1 - long * dy + half * dx),
    ]


def bends(points: Sequence[Point]) -> list[tuple[Point, Point, Point]]:
    """Return for every bend of an arrow where it begins, its corner and where it ends."""
    found = []
    for before, corner, behind in zip(points, points[1:], points[2:], strict=False):
        radius = min(BEND, _apart(before, corner) / 2, _apart(corner, behind) / 2)
        found.append((_towards(corner, before, radius), corner, _towards(corner, behind, radius)))
    return found


def shaft(points: Sequence[Point]) -> list[Point]:
    """Return the line of an arrow up to its head."""
    return [*points[:-1], _towards(points[-1], points[-2], 0.8 * HEAD[0])]


def _path(points: Sequence[Point]) -> str:
    line = shaft(points)
    path = f"M{_n(line[0][0])} {_n(line[0][1])}"
    for begin, corner, end in bends(line):
        path += f"L{_n(begin[0])} {_n(begin[1])}Q{_n(corner[0])} {_n(corner[1])} {_n(end[0])} {_n(end[1])}"
    return path + f"L{_n(line[-1][0])} {_n(line[-1][1])}"


def _apart(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(start: Point, end: Point, far: float) -> Point:
    share = far / max(_apart(start, end), 1e-9)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
