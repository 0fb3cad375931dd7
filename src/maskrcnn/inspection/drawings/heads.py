"""The sheet `heads`: every layer and step from the features to masks, the RPN above, a row for each head below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from maskrcnn.config import BoxHeadConfig, RPNConfig
from maskrcnn.inspection.drawings.blocks import BUS, LEVELS
from maskrcnn.inspection.drawings.contents import contents, of_module
from maskrcnn.inspection.drawings.features import READING, tensor
from maskrcnn.inspection.drawings.folding import units
from maskrcnn.inspection.drawings.place import (
    FRAME,
    HEADING,
    MARGIN,
    Side,
    finish,
    frame,
    heading,
    legend,
    link,
    put,
    same_height,
    same_width,
)
from maskrcnn.inspection.drawings.sheet import Box, Group, Sheet
from maskrcnn.inspection.drawings.strips import GAP, PAD, SIZE, TITLE, Strip, layer_box
from maskrcnn.inspection.drawings.words import abbreviations, channels, facts, number
from maskrcnn.inspection.structure import Layer, Structure
from maskrcnn.weights.importing import described

WIDE = 22.0
"""Between steps, where there is room."""
ROWS = 18.0


def head_layers(structure: Structure) -> Sheet:
    """Return the sheet of a network's proposals and heads."""
    laid = _Layout(structure)
    sheet = laid.sheet
    keys = [layer.key for layer in structure.layers.values() if layer.part in ("rpn", "heads")]
    bottom = max(group.y + group.h for group in sheet.groups) + 12
    notes = [READING, *abbreviations(structure, keys)]
    right = max(group.x + group.w for group in sheet.groups)
    bottom = legend(sheet, bottom, right, ("layer", "step", "tensor"), notes, SIZE)
    return finish(sheet, right, bottom)


@dataclass
class _Line:
    """Boxes in a row, which begin with strips of layers; two may stand one above the other."""

    strips: list[Strip]
    pair: tuple[Box, Box] | None = None
    steps: list[Box] = field(default_factory=list)
    upper: Box | None = None
    """A step at the height of the pair's upper box; the other steps are then at that of the lower one."""

    @property
    def spread(self) -> float:
        """How far the pair's middles are from the middle of the row."""
        return (max(box.h for box in self.pair) + GAP) / 2 if self.pair else 0.0

    @property
    def boxes(self) -> list[Box]:
        """All boxes but those of strips."""
        return [*(self.pair or ()), *([self.upper] if self.upper else []), *self.steps]

    @property
    def extent(self) -> tuple[float, float]:
        """How far the row reaches above and below its middle."""
        lower = [box.h / 2 + self.spread for box in self.boxes]
        above, below = lower or [0.0], lower or [0.0]
        for strip in self.strips:
            half = max(box.h for box in strip.main) / 2
            above = [*above, half + (TITLE if strip.framed else 0)]
            side = 11 + strip.side.h + PAD if strip.side else 11 + PAD if strip.add else PAD if strip.framed else 0
            below = [*below, half + side]
        return max(above), max(below)

    def place(self, x: float, middle: float) -> None:
        """Put all boxes in their places, from `x` to the right."""
        for strip in self.strips:
            x = strip.place(x, middle) + WIDE
        if self.pair:
            same_width(self.pair)
            for box, side in zip(self.pair, (-1, 1), strict=True):
                box.x = x
                put(box, y=middle + side * self.spread)
            x = self.pair[0].right + WIDE
        if self.upper:
            self.upper.x = x
            put(self.upper, y=middle - self.spread)
            x = self.upper.right + WIDE
        for box in self.steps:
            box.x = x
            put(box, y=middle + self.spread)
            x = box.right + WIDE

    def draw(self, sheet: Sheet, parent: str, source: Box, side: Side = "right", via: Sequence[float] = ()) -> None:
        """Add boxes and arrows; `source` comes before the first of them."""
        before = source
        for strip in self.strips:
            strip.draw(sheet, parent)
            strip.enter(sheet, before, side, via)
            before, side, via = strip.last, "right", ()
        sheet.boxes += self.boxes
        if self.pair:
            for box in self.pair:
                link(sheet, before, side, box, "left", via or [self.pair[0].x - WIDE / 2])
            before, side, via = self.pair[1], "right", ()
        if self.upper and self.pair:
            link(sheet, self.pair[0], "right", self.upper, "left")
            link(sheet, self.upper, "right", self.steps[0], "top")
        for box in self.steps:
            link(sheet, before, side, box, "left", via)
            before, side, via = box, "right", ()

    @property
    def right(self) -> float:
        """The x where the row ends."""
        ends = [box.right for box in self.boxes]
        return max([*ends, *(strip.last.right + (PAD if strip.framed else 0) for strip in self.strips)])


class _Layout:
    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.words = contents(structure)
        self.sheet = Sheet("heads", f"{described(structure.config)}: proposals and heads", facts(structure))
        self.top = heading(self.sheet)
        self.levels = self.features()
        self.bus = self.levels[0].right + FRAME + BUS
        rpn = self.proposals()
        heads = self.heads(rpn.y + rpn.h + ROWS)
        right = max(rpn.x + rpn.w, heads.x + heads.w)
        rpn.w, heads.w = right - rpn.x, right - heads.x

    def box(self, key: str) -> Box:
        """Return the box of a step."""
        return self.words.box(key, SIZE)

    def in_full(self, box: Box, rule: RPNConfig | BoxHeadConfig) -> None:
        """Say how deltas become a box."""
        dx, _, dw, _ = weights = rule.delta_weights
        x, w = (f" / {number(value)}" if value != 1 else "" for value in (dx, dw))
        lines = [f"x + w · dx{x}", f"w · exp(dw{w})"]
        if (dx, dw) != (weights[1], weights[3]):
            lines = [f"deltas / ({', '.join(map(number, weights))})", "x + w · dx, w · exp(dw)"]
        if rule.max_log_scale is not None:
            lines.append(f"dw ≤ {number(rule.max_log_scale)}")
        box.lines = (box.lines[0], *lines, *box.lines[1:])
        box.w, box.h = box.needs()

    def features(self) -> list[Box]:
        """Place the features that come from the other sheet, finest at the bottom."""
        y = self.top + HEADING
        boxes = []
        for name, anchors in reversed(self.structure.level_anchors.items()):
            box = tensor(self.structure, name, "backbone")
            box.lines += (f"{anchors:,} anchors",)
            box.w, box.h = box.needs()
            boxes.append(box)
        same_width(boxes)
        for box in boxes:
            box.x, box.y = MARGIN + FRAME, y
            y = box.bottom + 9
        self.sheet.boxes += boxes
        frame(self.sheet, "backbone", "backbone", "1 Features", boxes)
        return boxes

    def proposals(self) -> Group:
        """Place the RPN, from its convolutions to the proposals."""
        sheet, several = self.sheet, len(self.levels) > 1
        layers = of_module(self.structure, "rpn")
        first = [la for la in layers if la.key.endswith(f"@{self.levels[-1].key}")] if several else layers
        strips = [_shared(unit, layers, several) for unit in units([la for la in first if ".convs." in la.path])]
        pair = [_level_box(la, layers, several) for la in first if ".convs." not in la.path]
        keys = ("top_k", "rpn_decode", "rpn_clip", "nms", "proposals")
        upper, decode, clip, nms, kept = (self.box(key) for key in keys)
        self.in_full(decode, self.structure.config.rpn)
        same_height([decode, clip, nms])
        line = _Line(strips, (pair[0], pair[1]), [decode, clip, nms, kept], upper)
        loop = FRAME if several else 0.0
        above, _ = line.extent
        anchors = self.box("anchors")
        x = self.bus + BUS + FRAME + loop
        middle = self.top + HEADING + (HEADING if several else 0) + above
        line.place(x, middle)
        if several:
            for box in (upper, *line.steps):
                box.x += loop
        looped = [*(box for strip in strips for box in strip.boxes), *pair]
        lowest = max(box.bottom for box in (*looped, decode)) + loop + GAP
        anchors.x, anchors.y = x, max(lowest, self.levels[-1].bottom - anchors.h)
        inside = [*looped, upper, *line.steps, anchors]
        group = frame(sheet, "rpn", "rpn", "2 RPN: where may objects be?", inside)
        end = max(group.y + group.h, self.levels[-1].bottom + FRAME)
        group.x, group.y, group.w = group.x - loop, self.top, group.w + loop
        group.h = end - self.top
        if several:
            names = f"↻ for each of {self.levels[-1].key} … {self.levels[0].key}: same weights"
            frame(sheet, "rpn_loop", "rpn", names, looped, parent="rpn")
        for level in self.levels:
            link(sheet, level, "right", strips[0].first, "left", [self.bus])
        first_way = sheet.arrows.pop()
        line.draw(sheet, "rpn_loop" if several else "rpn", self.levels[-1], "right", [self.bus])
        sheet.arrows = [arrow for arrow in sheet.arrows if arrow.points != first_way.points] + [first_way]
        sheet.boxes.append(anchors)
        link(sheet, anchors, "right", decode, "bottom")
        return group

    def heads(self, top: float) -> Group:
        """Place RoIAlign and the heads."""
        sheet = self.sheet
        names = [name for name in LEVELS if f"{name}_roi_align" in self.words]
        rules = {name: self.box(LEVELS[name]) for name in names if LEVELS[name] in self.words}
        crops = {name: self.box(f"{name}_roi_align") for name in names}
        rows = {name: self.lines(name) for name in names}
        same_width([*rules.values(), *crops.values()])
        x = self.bus + BUS + FRAME
        start = x + crops["box"].w + 2 * FRAME + 2 * WIDE
        y = top + HEADING
        for name, lines in rows.items():
            rule, crop = rules.get(name), crops[name]
            above, below = lines[0].extent
            if rule:
                rule.x, rule.y = x, y
                middle = max(rule.bottom + WIDE + crop.h / 2, rule.middle[1] + 10 + above)
            else:
                middle = y + WIDE + max(above, crop.h / 2)
            crop.x = x
            put(crop, y=middle)
            lines[0].place(start, middle)
            y = middle + max(below, crop.h / 2) + ROWS
            for line in lines[1:]:
                above, below = line.extent
                line.place(start, y + above)
                y += above + below + ROWS
        cuts = [*rules.values(), *crops.values()]
        inside = [box for lines in rows.values() for line in lines for box in (*line.boxes, *_all(line.strips))]
        sheet.boxes += cuts
        roi_align = frame(sheet, "roi_align", "roi_align", "3 RoIAlign", cuts)
        group = frame(sheet, "heads", "heads", "4 Heads: what is it, and where exactly?", inside)
        group.x = start - WIDE
        self.right = max(line.right for lines in rows.values() for line in lines) + FRAME
        group.w = self.right + (FRAME if "keypoint" in rows and "mask" in rows else 0) - group.x
        for each in (roi_align, group):
            each.y, each.h = top, y - ROWS + FRAME - top
        self.join(rows, rules, crops, start)
        return group

    def lines(self, name: str) -> list[_Line]:
        """Return the rows of a head."""
        structure = self.structure
        lines = []
        if name == "box":
            stage5 = [la for la in of_module(structure, "stage5") if la.key.endswith("@boxes") or "@" not in la.key]
            if stage5:
                lines.append(_Line([Strip.of(unit, crops=True) for unit in units(stage5)]))
            layers = of_module(structure, "box_head")
            strips = [Strip.of(unit, crops=True) for unit in units(layers[:-2])]
            logits, deltas = (layer_box(layer, crops=True) for layer in layers[-2:])
            logits.title, logits.stages = "fc: classes", ("class_logits",)
            deltas.title, deltas.stages = "fc: deltas", ("box_deltas",)
            for box in (logits, deltas):
                box.w, box.h = box.needs()
            steps = [self.box(key) for key in ("box_decode", "class_nms", "detections")]
            self.in_full(steps[0], structure.config.box)
            lines.append(_Line(strips, (logits, deltas), steps, self.box("candidates")))
            return lines
        layers = of_module(structure, f"{name}_head")
        strips = [Strip.of(unit, crops=True) for unit in units(layers)]
        strips[-1].last.stages = (f"{name}_logits",)
        steps = [self.box(key) for key in (("paste", "masks") if name == "mask" else ("locate", "keypoints"))]
        again = f"stage5_{name}s"
        if again in self.words:
            strips.insert(0, Strip(strips[0].unit, [self.box(again)]))
        return [_Line(strips, steps=steps)]

    def join(self, rows: dict[str, list[_Line]], rules: dict[str, Box], crops: dict[str, Box], start: float) -> None:
        """Draw the arrows into, between and out of the rows."""
        sheet = self.sheet
        for name, lines in rows.items():
            rule, crop = rules.get(name), crops[name]
            for level in self.levels if rule is None else [la for la in self.levels if la.key != "p6"]:
                link(sheet, level, "right", crop, "left", [self.bus])
            giver = sheet["proposals" if name == "box" else "detections"]
            side: Side = "right" if name == "keypoint" and "masks" in sheet else "bottom"
            way = [self.right] if side == "right" else []
            if rule:
                link(sheet, rule, "bottom", crop, "top")
                link(sheet, giver, side, rule, "right", way)
            else:
                tops = [crop.y, *(box.y - TITLE for box in (*lines[0].boxes, *_all(lines[0].strips)))]
                link(sheet, giver, side, crop, "top", [*way, min(tops) - 8])
            lines[0].draw(sheet, "heads", crop)
            for before, line in pairwise(lines):
                last = before.strips[-1].last
                top = min(box.y for box in (*line.boxes, *_all(line.strips))) - ROWS / 2
                line.draw(sheet, "heads", last, "right", [before.right + WIDE / 2, top, start - WIDE / 2])


def _all(strips: Sequence[Strip]) -> list[Box]:
    return [box for strip in strips for box in strip.boxes]


def _level_box(layer: Layer, layers: Sequence[Layer], several: bool) -> Box:
    """Return the box of a layer of the RPN, which stands for its run on every level."""
    keys = tuple(other.key for other in layers if other.path == layer.path)
    box = layer_box(layer, keys)
    if several:  # the output's size differs from level to level
        activation = [layer.activation] if layer.activation else []
        box.lines = (channels(layer), *activation, f"{layer.parameters:,}")
    if not layer.path.startswith("rpn.convs"):
        name = layer.path.removeprefix("rpn.")
        box.title, box.stages = f"{box.title}: {name}", (f"rpn_{name}",)
    box.w, box.h = box.needs()
    return box


def _shared(unit: object, layers: Sequence[Layer], several: bool) -> Strip:
    """Return convolutions of the RPN, which stand for their run on every level."""
    strip = Strip.of(unit)  # type: ignore[arg-type]
    paths = {layer.path for layers_ in strip.unit.rounds for layer in layers_}
    box = _level_box(strip.unit.layers[0], layers, several)
    box.layers = tuple(layer.key for layer in layers if layer.path in paths)
    strip.main = [box]
    return strip
