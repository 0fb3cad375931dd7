"""Layers in a row: residual blocks with their second way below, frames around what is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from maskrcnn.inspection.drawings.folding import Unit
from maskrcnn.inspection.drawings.place import Side, frame, link, port, put, route
from maskrcnn.inspection.drawings.sheet import Arrow, Box, Sheet, TextLine
from maskrcnn.inspection.drawings.words import after, channels, features, operation
from maskrcnn.inspection.structure import Layer

SIZE = 11.0
GAP = 13.0
PAD = 8.0
"""From a block's frame to the boxes inside."""
TITLE = 20.0
"""From the top of a block's frame to the boxes inside."""
LANE = 11.0
"""From the boxes of a block to those of its second way below."""


def layer_box(layer: Layer, keys: Sequence[str] = (), crops: bool = False) -> Box:
    """Return the box of a layer with all its numbers; `crops` keeps the first axis of the shape."""
    if layer.kind == "add":
        return Box(layer.key, layer.part, "+", layers=tuple(keys) or (layer.key,), size=SIZE, circle=True)
    return Box(
        layer.key,
        layer.part,
        operation(layer),
        tuple(_lines(layer, crops)),
        layers=tuple(keys) or (layer.key,),
        size=SIZE,
    )


def _lines(layer: Layer, crops: bool) -> list[str]:
    weighted = layer.kind in ("conv", "deconv", "linear")
    said = [channels(layer)] if weighted else []
    if layer.groups > 1:
        said.append(f"{layer.groups} groups")
    if layer.dilation > 1:
        said.append(f"dilation {layer.dilation}")
    said += filter(None, [after(layer)])
    said.append(features(layer) if not crops else "×".join(str(n) for n in layer.out_shape))
    if weighted:
        said.append(f"{layer.parameters:,}")
    return said


@dataclass
class Strip:
    """A unit as boxes: the main way, and what is beside it in a residual block."""

    unit: Unit
    main: list[Box] = field(default_factory=list)
    add: Box | None = None
    side: Box | None = None
    """The projection, where a block has one."""

    @classmethod
    def of(cls, unit: Unit, crops: bool = False) -> Strip:
        """Return the boxes of a unit."""
        strip = cls(unit)
        for place, layer in enumerate(unit.layers):
            box = layer_box(layer, unit.keys(place), crops)
            if layer.kind == "add":
                strip.add = box
            elif ".downsample" in layer.path:
                flat = (" · ".join(filter(None, (after(layer), *box.lines[-2:]))),)
                title = f"{box.title}, {channels(layer)}"
                strip.side = Box(box.key, box.part, title, flat, layers=box.layers, size=SIZE)
            else:
                strip.main.append(box)
        return strip

    @property
    def boxes(self) -> list[Box]:
        """All boxes, in the order of their places."""
        return [*self.main, *[self.add] * (self.add is not None), *[self.side] * (self.side is not None)]  # type: ignore[list-item]

    @property
    def framed(self) -> bool:
        """Whether there is a frame around the unit."""
        return self.add is not None or self.unit.times > 1

    @property
    def first(self) -> Box:
        """The box that the strip begins with."""
        return self.main[0]

    @property
    def last(self) -> Box:
        """The box that the strip ends in."""
        return self.add or self.main[-1]

    @property
    def wide(self) -> float:
        """Width, the frame included."""
        boxes = [*self.main, *([self.add] if self.add else [])]
        return sum(box.w for box in boxes) + GAP * (len(boxes) - 1) + (2 * PAD if self.framed else 0)

    def place(self, x: float, middle: float) -> float:
        """Put the boxes in their places from `x` to the right; return the right end, the frame's."""
        begin = x + (PAD if self.framed else 0)
        at = begin
        for box in [*self.main, *([self.add] if self.add else [])]:
            box.x = at
            put(box, y=middle)
            at = box.right + GAP
        if self.side:
            self.side.x = begin
            self.side.w = max(self.side.w, self.main[-1].right - begin)
            self.side.y = max(box.bottom for box in self.main) + LANE
        return x + self.wide

    def below(self) -> float:
        """Return the y of the line that skips the main way."""
        return max(box.bottom for box in self.main) + LANE

    def draw(self, sheet: Sheet, parent: str) -> None:
        """Add boxes, frame and inner arrows to a sheet."""
        sheet.boxes += self.boxes
        if self.framed:
            times = f"× {self.unit.times}" if self.unit.times > 1 else ""
            group = frame(sheet, f"block:{self.first.key}", self.first.part, self.unit.name, self.boxes, parent, times)
            top = min(box.y for box in self.main) - TITLE
            end = max(self.below() + PAD if self.add else 0.0, *(box.bottom + PAD for box in self.boxes))
            group.x, group.y = self.first.x - PAD, top
            group.w, group.h = self.wide, end - top
        for before, behind in zip(self.main, [*self.main[1:], *([self.add] if self.add else [])], strict=False):
            link(sheet, before, "right", behind, "left")
        if self.side and self.add:
            link(sheet, self.side, "right", self.add, "bottom")
        if self.add and self.unit.layers[-1].activation:
            x, y = self.add.middle[0], self.add.y - 6
            sheet.texts.append(TextLine(self.unit.layers[-1].activation, x, y, SIZE))

    def enter(self, sheet: Sheet, source: Box, side: Side, via: Sequence[float] = ()) -> None:
        """Join what comes before to the first box, and to the second way of a residual block."""
        link(sheet, source, side, self.first, "left", via)
        turn = self.first.x - PAD - GAP / 2 if not via else via[-1]
        if self.side:
            way = [*via] if via else [turn]
            link(sheet, source, side, self.side, "left", way)
        elif self.add:
            across = side in ("left", "right")
            way = [*via, self.below()] if via else [turn, self.below()]
            points = route(port(source, side), across, port(self.add, "bottom"), False, way)
            sheet.arrows.append(Arrow(source.key, self.add.key, points))
