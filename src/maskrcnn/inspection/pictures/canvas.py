"""Drawing with Pillow: smooth lines, arrows, labels, and sheets of pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw

from maskrcnn.drawing import RGB, contact_sheet, readable_on
from maskrcnn.fonts import font_for, shortened
from maskrcnn.inspection.pictures.colors import INK, PAPER

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Style = Literal["solid", "dashed"]

FINE = 3
"""Shapes are drawn this many times as large and then reduced, which makes their edges smooth."""
FAR = 10.0
"""Coordinates are cut to this many sides of the picture around it: a network gone wrong has boxes at 1e30."""
NARROWEST = 9
"""Letters' heights that a caption is wide at least."""
_SHADOW = (0, 0, 0, 110)


class Sketch:
    """Shapes over a picture; coordinates and widths in the picture's pixels. Every line has a dark rim, so that it
    is seen on any ground.
    """

    def __init__(self, picture: Image.Image) -> None:
        self.size = picture.size
        fine = (picture.width * FINE, picture.height * FINE)
        self._picture = picture.convert("RGB").resize(fine, Image.Resampling.NEAREST)
        self._draw = ImageDraw.Draw(self._picture, "RGBA")

    def finished(self) -> Image.Image:
        """Return the picture with the shapes."""
        return self._picture.reduce(FINE)

    def fill(self, box: Box, ink: RGB, alpha: float) -> None:
        """Tint a rectangle."""
        x1, y1, x2, y2 = self._fine(box)
        if x2 > x1 and y2 > y1:
            self._draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=(*ink, round(255 * alpha)))

    def line(
        self, points: Sequence[Point], ink: RGB, width: float = 2.0, style: Style = "solid", rim: bool = True
    ) -> None:
        """Draw straight lines from point to point."""
        fine = [self._point(p) for p in points]
        pieces = list(pairwise(fine))
        if style == "dashed":
            dash = max(width * 2.5, 5.0) * FINE
            pieces = [piece for a, b in pieces for piece in _dashes(a, b, dash)]
        whole = max(round(width * FINE), 1)
        if rim:
            for a, b in pieces:
                self._draw.line((*a, *b), fill=_SHADOW, width=whole + 2 * FINE)
        for a, b in pieces:
            self._draw.line((*a, *b), fill=ink, width=whole)

    def box(self, box: Box, ink: RGB, width: float = 2.0, style: Style = "solid", rim: bool = True) -> None:
        """Draw a rectangle's outline."""
        x1, y1, x2, y2 = box
        half = width / 2  # the lines of a corner meet
        self.line([(x1 - half, y1), (x2 + half, y1)], ink, width, style, rim)
        self.line([(x1 - half, y2), (x2 + half, y2)], ink, width, style, rim)
        self.line([(x1, y1), (x1, y2)], ink, width, style, rim)
        self.line([(x2, y1), (x2, y2)], ink, width, style, rim)

    def dot(self, point: Point, ink: RGB, radius: float = 2.5, rim: RGB | None = (0, 0, 0)) -> None:
        """Draw a disc, with a rim if wished."""
        x, y = self._point(point)
        r = radius * FINE
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=ink, outline=rim, width=FINE if rim else 0)

    def arrow(self, begin: Point, end: Point, ink: RGB, width: float = 2.0) -> None:
        """Draw an arrow; of less than its head's length there is only the line."""
        (ax, ay), (bx, by) = begin, end
        length = math.hypot(bx - ax, by - ay)
        head = max(4.0 * width, 6.0)
        if not math.isfinite(length) or length < head:
            self.line([begin, end], ink, width)
            return
        ux, uy = (bx - ax) / length, (by - ay) / length
        base = (bx - ux * head, by - uy * head)
        self.line([begin, base], ink, width)
        wing = head * 0.45
        corners = [end, (base[0] - uy * wing, base[1] + ux * wing), (base[0] + uy * wing, base[1] - ux * wing)]
        self._draw.polygon([self._point(p) for p in corners], fill=ink, outline=_SHADOW)

    def label(self, place: Point, text: str, ground: RGB, size: int = 14) -> None:
        """Write a text on a chip whose top left corner is at `place`, moved into the picture."""
        font = font_for(size * FINE, text)
        pad = size * FINE // 4
        text = shortened(text, font, max(self._picture.width - 2 * pad, 1))
        width, height = round(font.getlength(text)) + 2 * pad, sum(font.getmetrics()) + pad
        x, y = self._point(place)
        x = min(max(x, 0.0), max(float(self._picture.width - width), 0.0))
        y = min(max(y, 0.0), max(float(self._picture.height - height), 0.0))
        self._draw.rounded_rectangle((x, y, x + width, y + height), radius=pad, fill=ground)
        self._draw.text((x + pad, y + pad / 2), text, font=font, fill=readable_on(ground))

    def _point(self, point: Point) -> Point:
        x, y = (min(max(v, -FAR * side), (FAR + 1) * side) * FINE for v, side in zip(point, self.size, strict=True))
        return x, y

    def _fine(self, box: Box) -> Box:
        return *self._point((box[0], box[1])), *self._point((box[2], box[3]))


def _dashes(a: Point, b: Point, dash: float) -> list[tuple[Point, Point]]:
    """Return the dashes between two points, one at either end."""
    length = math.hypot(b[0] - a[0], b[1] - a[1])
    if not length > dash:
        return [(a, b)]
    gaps = min(max(round(length / dash / 2), 1), 10_000)
    step = length / (2 * gaps + 1)
    ux, uy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    places = [(2 * k * step, (2 * k + 1) * step) for k in range(gaps + 1)]
    return [((a[0] + ux * s, a[1] + uy * s), (a[0] + ux * e, a[1] + uy * e)) for s, e in places]


def captioned(picture: Image.Image, caption: str, size: int = 15, lines: int = 1) -> Image.Image:
    """Return a picture under its caption, broken into lines where it is longer than the picture is wide.

    Args:
        picture: the picture; of a narrow one the caption is wider.
        caption: what stands above it, on the left.
        size: of the letters, in pixels.
        lines: room for at least so many lines, so that pictures beside each other stand at one height.
    """
    room = max(picture.width, NARROWEST * size)
    broken = _broken(caption, size, room)
    step = round(1.35 * size)
    top = step * max(len(broken), lines) + size // 3
    sheet = Image.new(
        "RGB", (max(picture.width, *(_width(line, size) for line in broken)), top + picture.height), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(broken):
        y = top - size // 3 - (len(broken) - number) * step
        draw.text((0, y), line, font=font_for(size, line), fill=INK)
    sheet.paste(picture, (0, top))
    return sheet


def _width(text: str, size: int) -> int:
    return math.ceil(font_for(size, text).getlength(text))


def _broken(text: str, size: int, room: int) -> list[str]:
    """Return a text broken between words where it does not fit; a word that is too long is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shortened(line, font_for(size, line), room) for line in lines] or [""]


def sheet_of(panels: Iterable[tuple[Image.Image, str]], columns: int, gap: int = 16, size: int = 15) -> Image.Image:
    """Return pictures with their captions in rows and columns; those of a row begin at one height."""
    several = list(panels)
    cells = []
    for begin in range(0, len(several), columns):
        row = several[begin : begin + columns]
        lines = max(len(_broken(caption, size, max(p.width, NARROWEST * size))) for p, caption in row)
        tallest = max(picture.height for picture, _ in row)
        cells += [captioned(_grown(picture, tallest), caption, size, lines) for picture, caption in row]
    return contact_sheet(cells, columns, gap)


def _grown(picture: Image.Image, height: int) -> Image.Image:
    """Return a picture with paper below it, up to a height."""
    if picture.height == height:
        return picture
    whole = Image.new("RGB", (picture.width, height), PAPER)
    whole.paste(picture, (0, 0))
    return whole


def stacked(pictures: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Return pictures below each other, all at the left."""
    size = (max(p.width for p in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1))
    whole = Image.new("RGB", size, PAPER)
    y = 0
    for picture in pictures:
        whole.paste(picture, (0, y))
        y += picture.height + gap
    return whole


def legend(entries: Sequence[tuple[RGB, str]], width: int, size: int = 14) -> Image.Image:
    """Return coloured squares with their texts in a row, broken into several where they do not fit."""
    step, x, y = 2 * size, size // 2, 0
    places = []
    for ink, text in entries:
        font = font_for(size, text)
        text = shortened(text, font, max(width - 2 * step, size))
        needed = round(font.getlength(text)) + round(2.6 * size)
        if x > size and x + needed > width:
            x, y = size // 2, y + step
        places.append((x, y, ink, text))
        x += needed
    strip = Image.new("RGB", (width, y + step), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, ink, text in places:
        top = y + size // 2
        draw.rectangle((x, top, x + size, top + size), fill=ink, outline=INK)
        draw.text((x + round(1.4 * size), y + size), text, font=font_for(size, text), fill=INK, anchor="lm")
    return strip


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """Return a small picture of single values with its longer side at about `side`: every value a square of pixels.

    One that is larger than `side` is reduced by averaging.
    """
    longest = max(picture.size)
    if longest > side:
        size = (max(round(picture.width * side / longest), 1), max(round(picture.height * side / longest), 1))
        return picture.resize(size, Image.Resampling.BOX)
    factor = max(side // longest, 1)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
