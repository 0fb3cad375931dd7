"""A drawing as data: sheets with boxes, arrows, frames and texts that have their places; writers only write.

Lengths are in units of a sheet, which is a pixel in SVG; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from maskrcnn.inspection.drawings.text import width
from maskrcnn.inspection.parts import PartName

Level = Literal["parts", "blocks", "layers"]
Kind = Literal["layer", "step", "tensor"]
"""`layer`: has weights or is an operation between layers. `step`: computed by rule. `tensor`: what is handed on."""
Mark = Literal["", "differs", "only here"]
Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
Tone = Literal["ink", "muted", "part", "mark"]

LINE = 1.32
"""Distance of lines of text, in font sizes."""
TITLE = 1.12
"""Size of a box's title, in sizes of its lines."""
PADDING = (0.68, 0.5)
"""Free space in a box at the left and right, and at the top and bottom, in sizes of its lines."""
ASCENT, MIDDLE = 0.93, 0.34
"""From the top of a line, and from its middle, down to its baseline, in font sizes."""


class TextLine(NamedTuple):
    """A line of text with its place: `y` is the baseline."""

    text: str
    x: float
    y: float
    size: float
    bold: bool = False
    anchor: Anchor = "middle"
    tone: Tone = "ink"
    part: PartName = "input"
    """Whose colour a text of tone `part` has."""

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in the widest usual font."""
        long = width(self.text, self.size, self.bold)
        left = self.x - {"start": 0.0, "middle": long / 2, "end": long}[self.anchor]
        return left, self.y - ASCENT * self.size, left + long, self.y + 0.24 * self.size


@dataclass
class Box:
    """A layer, a step or a tensor. `key` is the same at every level of detail where it means the same thing."""

    key: str
    part: PartName
    title: str
    lines: tuple[str, ...] = ()
    kind: Kind = "layer"
    stages: tuple[str, ...] = ()
    """Names of the stages whose data is there."""
    layers: tuple[str, ...] = ()
    """Keys of the layers of the `Structure` that are inside."""
    size: float = 12.0
    """Of the lines; the title is `TITLE` times as large."""
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    circle: bool = False
    """Drawn as a circle with the title alone, as an addition is."""
    top: float = 0.0
    """Height kept free above the title, for a pictogram."""
    mark: Mark = ""
    """In a comparison."""
    marked: frozenset[int] = frozenset()
    """Which lines differ in a comparison; −1 is the title."""

    def __post_init__(self) -> None:
        wide, high = self.needs()
        self.w, self.h = self.w or wide, self.h or high

    def needs(self) -> tuple[float, float]:
        """Return the width and height that the text takes, padding included."""
        if self.circle:
            side = 2.0 * self.size
            return side, side
        title = self.size * TITLE
        widths = [width(self.title, title, bold=True), *(width(line, self.size) for line in self.lines)]
        high = title * LINE + len(self.lines) * self.size * LINE
        return max(widths) + 2 * PADDING[0] * self.size, high + 2 * PADDING[1] * self.size + self.top

    def text(self) -> list[TextLine]:
        """Return the title and the lines with their places, centred."""
        middle = self.x + self.w / 2
        title = self.size * TITLE
        if self.circle:
            size = 1.5 * self.size
            return [TextLine(self.title, middle, self.y + self.h / 2 + MIDDLE * size, size, True, part=self.part)]
        _, needed = self.needs()
        y = self.y + (self.h - needed) / 2 + PADDING[1] * self.size + self.top
        places = [TextLine(self.title, middle, y + ASCENT * title, title, True, tone=self._tone(-1, "part"))]
        y += title * LINE
        for number, line in enumerate(self.lines):
            places.append(TextLine(line, middle, y + ASCENT * self.size, self.size, tone=self._tone(number, "ink")))
            y += self.size * LINE
        return [place._replace(part=self.part) for place in places]

    def _tone(self, number: int, otherwise: Tone) -> Tone:
        return "mark" if number in self.marked else otherwise

    @property
    def left(self) -> float:
        """The x of the left side."""
        return self.x

    @property
    def right(self) -> float:
        """The x of the right side."""
        return self.x + self.w

    @property
    def bottom(self) -> float:
        """The y of the lower side."""
        return self.y + self.h

    @property
    def middle(self) -> Point:
        """The centre."""
        return self.x + self.w / 2, self.y + self.h / 2


@dataclass
class Arrow:
    """A connection that leaves one box and ends at another, in horizontal and vertical segments."""

    source: str
    target: str
    points: list[Point]
    labels: list[TextLine] = field(default_factory=list)


@dataclass
class Group:
    """A frame around boxes: a part of the network, or a block that is repeated."""

    key: str
    part: PartName
    title: str
    members: tuple[str, ...]
    """Keys of the boxes inside, those of frames inside included."""
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    parent: str = ""
    """Key of the frame around it."""
    note: str = ""
    """At the right of the title, as × 22."""
    mark: Mark = ""

    def text(self) -> list[TextLine]:
        """Return the title and the note with their places; none where there is none."""
        y = self.y + 6 + ASCENT * self.size
        tone: Tone = "mark" if self.mark == "differs" else "part"
        title = TextLine(self.title, self.x + 11, y, self.size, True, "start", "part", self.part)
        note = TextLine(self.note, self.x + self.w - 11, y, self.size, True, "end", tone, self.part)
        return [line for line in (title, note) if line.text]

    @property
    def size(self) -> float:
        """Font size of the title."""
        return 11.5 if self.parent else 13.0


class Swatch(NamedTuple):
    """A small box of the legend."""

    part: PartName
    kind: Kind | Literal["mark", "frame"]
    x: float
    y: float
    w: float
    h: float


class Shape(NamedTuple):
    """A piece of a pictogram."""

    form: Literal["rect", "ellipse", "line"]
    part: PartName
    points: tuple[Point, ...]
    """Two opposite corners, or the points of a line."""
    fill: Literal["none", "pale", "ink", "paper"] = "none"
    thick: float = 1.3
    box: str = ""
    """Key of the box that it stands in."""


@dataclass
class Sheet:
    """One page."""

    key: str
    title: str
    subtitle: str
    width: float = 0.0
    height: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    """Frames, those around others first."""
    texts: list[TextLine] = field(default_factory=list)
    legend: list[Swatch] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)

    def __getitem__(self, key: str) -> Box:
        """Return a box by its key."""
        for box in self.boxes:
            if box.key == key:
                return box
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(box.key == key for box in self.boxes)

    def all_text(self) -> Iterator[TextLine]:
        """Yield every line of text on the sheet."""
        yield from self.texts
        for group in self.groups:
            yield from group.text()
        for box in self.boxes:
            yield from box.text()
        for arrow in self.arrows:
            yield from arrow.labels


@dataclass
class Drawing:
    """The sheets of one drawing."""

    level: Level
    name: str
    """Of files that the drawing is saved in, without a suffix."""
    sheets: list[Sheet]
