"""PNG and PDF by matplotlib, from the same sheets; text in a PDF stays text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskrcnn.errors import InputError
from maskrcnn.inspection.drawings.sheet import Box, Group, Point, Shape, Sheet, Swatch, TextLine
from maskrcnn.inspection.drawings.svg import COLOURS, bends, head, shaft

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 72.0
"""To the inch."""
A4, SLIDE = (297 / 25.4, 210 / 25.4), (13.333, 7.5)
"""Inches of a page, the longer side first."""
EDGE = 10 / 25.4
"""Inches of a page of A4 that many a printer leaves white."""
PIXELS = 2.0
"""Of a PNG, for every unit of the sheet."""


def write_png(sheet: Sheet, path: str | os.PathLike[str]) -> None:
    """Write a sheet as PNG, with two pixels for every unit.

    Raises:
        InputError: matplotlib is not installed.
    """
    _matplotlib()
    size = (sheet.width / POINTS, sheet.height / POINTS)
    _Plot(sheet, size, (0.0, 0.0, 1.0, 1.0)).figure.savefig(path, format="png", dpi=PIXELS * POINTS)


def write_pdf(sheets: Sequence[Sheet], path: str | os.PathLike[str]) -> None:
    """Write sheets as pages of a PDF: the parts on a slide, others on A4 with 10 mm left free, whichever way fits.

    Raises:
        InputError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    from matplotlib.backends.backend_pdf import PdfPages

    about = {"Title": sheets[0].title, "Creator": "maskrcnn", "CreationDate": None}
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(path, metadata=about) as file:
        for sheet in sheets:
            slide = sheet.key == "parts"
            page, edge = (SLIDE, 0.0) if slide else (A4, EDGE)
            if sheet.height > sheet.width:
                page = (page[1], page[0])
            inch = min((page[0] - 2 * edge) / sheet.width, (page[1] - 2 * edge) / sheet.height)
            wide, high = inch * sheet.width / page[0], inch * sheet.height / page[1]
            plot = _Plot(sheet, page, ((1 - wide) / 2, (1 - high) / 2, wide, high))
            file.savefig(plot.figure)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            "PNG and PDF need matplotlib: pip install 'maskrcnn[draw]'. The formats svg and drawio need nothing."
        ) from None
    return matplotlib


class _Plot:
    """A sheet on a figure of `size` inches, in the share of it that `place` tells: left, bottom, width, height."""

    figure: Figure

    def __init__(self, sheet: Sheet, size: tuple[float, float], place: tuple[float, float, float, float]) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=size)
        self.axes = self.figure.add_axes(place)
        self.axes.set_xlim(0, sheet.width)
        self.axes.set_ylim(sheet.height, 0)
        self.axes.axis("off")
        self.point = size[0] * place[2] * POINTS / sheet.width
        """Points to a unit of the sheet."""
        for group in sheet.groups:
            self.group(group)
        self.arrows(sheet)
        for box in sheet.boxes:
            self.box(box)
        for shape in sheet.shapes:
            self.shape(shape)
        for swatch in sheet.legend:
            self.swatch(swatch)
        for line in sheet.all_text():
            self.text(line)

    def add(self, points: list[Point], codes: list[int], fill: str, stroke: str, wide: float, **more: Any) -> None:
        """Add an area or a line; colours are names of `COLOURS`, or none."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        face = COLOURS.get(fill, "none")
        edge = COLOURS.get(stroke, "none")
        patch = PathPatch(
            Path(points, codes), facecolor=face, edgecolor=edge, linewidth=wide * self.point, joinstyle="miter", **more
        )
        self.axes.add_patch(patch)

    def rect(self, x: float, y: float, w: float, h: float, radius: float, *paint: Any, **more: Any) -> None:
        """Add a rectangle with round corners."""
        r = min(radius, w / 2, h / 2)
        points = [(x + r, y), (x + w - r, y), (x + w, y), (x + w, y + r), (x + w, y + h - r), (x + w, y + h)]
        points += [(x + w - r, y + h), (x + r, y + h), (x, y + h), (x, y + h - r), (x, y + r), (x, y), (x + r, y)]
        codes = [1, 2, 3, 3, 2, 3, 3, 2, 3, 3, 2, 3, 3]  # MOVETO, LINETO, CURVE3
        self.add([*points, (x + r, y)], [*codes, 79], *paint, **more)

    def dashes(self, *lengths: float) -> tuple[float, tuple[float, ...]]:
        """Return the line style of dashes."""
        return 0.0, tuple(length * self.point for length in lengths)

    def group(self, group: Group) -> None:
        place = (group.x, group.y, group.w, group.h, 9.0)
        ink = "mark" if group.mark else f"{group.part}-ink"
        if group.parent:
            self.rect(*place, "none", ink, 2.0 if group.mark else 1.1, linestyle=self.dashes(2 / 1.1, 3 / 1.1))
        else:
            self.rect(*place, f"{group.part}-fill", "none", 0.0, alpha=0.35)
            self.rect(*place, "none", ink, 1.0, alpha=0.55)

    def arrows(self, sheet: Sheet) -> None:
        points: list[Point] = []
        codes: list[int] = []
        for arrow in sheet.arrows:
            line = shaft(arrow.points)
            points.append(line[0])
            codes.append(1)
            for begin, corner, end in bends(line):
                points += [begin, corner, end]
                codes += [2, 3, 3]
            points.append(line[-1])
            codes.append(2)
        self.add(points, codes, "none", "line", 1.5)
        for arrow in sheet.arrows:
            tip = head(arrow.points)
            self.add([*tip, tip[0]], [1, 2, 2, 79], "line", "none", 0.0)

    def box(self, box: Box) -> None:
        stroke, wide = ("mark", 2.6) if box.mark else (f"{box.part}-ink", 1.2)
        fill = f"{box.part}-fill" if box.kind == "layer" else "paper"
        radius = {"layer": 5.0, "step": 5.0, "tensor": min(box.h / 2, 16.0)}[box.kind]
        style = {"linestyle": self.dashes(5 / wide, 3 / wide)} if box.kind == "step" else {}
        if box.circle:
            self.ellipse(box.x, box.y, box.right, box.bottom, fill, stroke, wide)
        else:
            self.rect(box.x, box.y, box.w, box.h, radius, fill, stroke, wide, **style)

    def ellipse(self, x1: float, y1: float, x2: float, y2: float, fill: str, stroke: str, wide: float) -> None:
        from matplotlib.path import Path

        circle: Any = Path.unit_circle()
        points = [((x1 + x2) / 2 + x * (x2 - x1) / 2, (y1 + y2) / 2 + y * (y2 - y1) / 2) for x, y in circle.vertices]
        codes = [int(code) for code in circle.codes]
        self.add(points, codes, fill, stroke, wide)

    def swatch(self, swatch: Swatch) -> None:
        fill = f"{swatch.part}-fill" if swatch.kind in ("frame", "layer") else "none"
        stroke, wide = ("mark", 2.6) if swatch.kind == "mark" else (f"{swatch.part}-ink", 1.0)
        radius = swatch.h / 2 if swatch.kind == "tensor" else 2.5
        style = {"linestyle": self.dashes(4.0, 2.0)} if swatch.kind == "step" else {}
        self.rect(swatch.x, swatch.y, swatch.w, swatch.h, radius, fill, stroke, wide, **style)

    def shape(self, shape: Shape) -> None:
        ink = f"{shape.part}-ink"
        fill = {"none": "none", "pale": f"{shape.part}-fill", "ink": ink, "paper": "paper"}[shape.fill]
        (x1, y1), (x2, y2) = shape.points[0], shape.points[-1]
        if shape.form == "ellipse":
            self.ellipse(x1, y1, x2, y2, fill, ink, shape.thick)
        elif shape.form == "rect":
            self.rect(x1, y1, x2 - x1, y2 - y1, 1.5, fill, ink, shape.thick)
        else:
            self.add([*shape.points], [1, *[2] * (len(shape.points) - 1)], fill, ink, shape.thick)

    def text(self, line: TextLine) -> None:
        colour = COLOURS[f"{line.part}-ink" if line.tone == "part" else line.tone]
        align = {"start": "left", "middle": "center", "end": "right"}[line.anchor]
        weight = "bold" if line.bold else "normal"
        self.axes.text(
            line.x,
            line.y,
            line.text,
            fontsize=line.size * self.point,
            color=colour,
            ha=align,
            va="baseline",
            fontweight=weight,
            fontfamily="DejaVu Sans",
            parse_math=False,
        )
        if line.tone == "mark":
            left, _, right, _ = line.extent
            y = line.y + 0.16 * line.size
            self.add([(left, y), (right, y)], [1, 2], "none", "mark", 0.9)
