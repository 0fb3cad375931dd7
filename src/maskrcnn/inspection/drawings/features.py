"""The sheet `features`: every layer of the backbone and its pyramid, a row for each stage, the coarsest on top."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskrcnn.inspection.drawings.contents import of_module, stage_layers
from maskrcnn.inspection.drawings.folding import units
from maskrcnn.inspection.drawings.place import (
    FRAME,
    HEADING,
    MARGIN,
    finish,
    frame,
    heading,
    legend,
    link,
    put,
    same_width,
)
from maskrcnn.inspection.drawings.sheet import Box, Group, Sheet
from maskrcnn.inspection.drawings.strips import GAP, LANE, PAD, SIZE, TITLE, Strip, layer_box
from maskrcnn.inspection.drawings.words import abbreviations, facts, sizes
from maskrcnn.inspection.parts import PartName
from maskrcnn.inspection.structure import Structure
from maskrcnn.weights.importing import described

ROWS = 14.0
"""Between rows."""
READING = "in a layer: channels, norm and activation, output, parameters"


def feature_layers(structure: Structure) -> Sheet:
    """Return the sheet of a network's features."""
    laid = _Layout(structure)
    sheet = laid.sheet
    keys = [layer.key for layer in structure.layers.values() if layer.part == "backbone"]
    bottom = max(group.y + group.h for group in sheet.groups) + 12
    right = max(group.x + group.w for group in sheet.groups)
    bottom = legend(sheet, bottom, right, ("layer", "tensor"), [READING, *abbreviations(structure, keys)], SIZE)
    return finish(sheet, right, bottom)


def tensor(structure: Structure, name: str, part: PartName) -> Box:
    """Return the box of a feature map."""
    return Box(name, part, name, (sizes(structure.shapes[name][1:]),), "tensor", (name,), size=SIZE)


@dataclass
class _Layout:
    structure: Structure
    middles: dict[str, float] = field(default_factory=dict)
    """The height of every stage's main way."""

    def __post_init__(self) -> None:
        structure = self.structure
        self.sheet = Sheet("features", f"{described(structure.config)}: feature extraction", facts(structure))
        self.top = heading(self.sheet)
        stages = stage_layers(structure)
        self.rows = {name: [Strip.of(unit) for unit in units(stages[name])] for name in reversed(stages)}
        self.pool = self.rows["c2"].pop(0) if self.rows["c2"][0].first.layers[0] == "backbone.maxpool" else None
        self.maps = {name: tensor(structure, name, "backbone") for name in self.rows}
        same_width([*self.maps.values()])
        for layer in of_module(structure, "fpn"):
            if layer.kind == "subsample":
                lines = (sizes(layer.out_shape[1:]), "every 2nd cell")
                self.p6 = Box("p6", "backbone", "p6", lines, "step", ("p6",), (layer.key,), SIZE)
        group = self.backbone()
        if "p2" in structure.shapes:
            self.pyramid(group.x + group.w)

    def backbone(self) -> Group:
        """Place the backbone's rows in their frame."""
        sheet, left, y = self.sheet, MARGIN + FRAME, self.top + HEADING
        stem = next(reversed(self.rows))
        image = tensor(self.structure, "image", "input")
        image.key, image.stages, image.x = "input", ("image", "image_meta"), left
        right = left
        for name, strips in self.rows.items():
            above, below = _extent(strips)
            self.middles[name] = max(y + above, self.highest(name))
            y = self.middles[name] + below + ROWS
            x = image.right + GAP if name == stem else left + GAP
            for strip in strips:
                x = strip.place(x, self.middles[name]) + GAP
            right = max(right, x)
        for name, box in self.maps.items():
            box.x = right + 4
            put(box, y=self.middles[name])
        if self.pool:  # between c1 and c2, and placed where there is room
            self.maps[stem].x = self.rows[stem][-1].last.right + GAP
            self.pool.place(self.maps[stem].right + GAP, self.middles[stem])
            self.pool.draw(sheet, "backbone")
            link(sheet, self.maps[stem], "right", self.pool.first, "left")
        put(image, y=self.middles[stem])
        inside = [*self.maps.values(), *(box for strips in self.rows.values() for s in strips for box in s.boxes)]
        inside += self.pool.boxes if self.pool else []
        sheet.boxes += [image, *self.maps.values()]
        group = frame(sheet, "backbone", "backbone", "1 Backbone", inside)
        group.x, group.y, group.h = MARGIN, self.top, y - ROWS + FRAME - self.top
        group.w = max(box.right for box in self.maps.values()) + FRAME - MARGIN
        for strips in self.rows.values():
            for strip in strips:
                strip.draw(sheet, "backbone")
        self.join(image, left)
        return group

    def highest(self, name: str) -> float:
        """Return the least y of a stage's middle, for the pyramid beside it to have room."""
        if "p2" not in self.structure.shapes or name == "c1":
            return 0.0
        layer = of_module(self.structure, "fpn.output5")[0]
        high, chip, p6 = layer_box(layer).h, self.maps[name].h, self.p6.h
        if not self.middles:
            return self.top + FRAME + max(p6 + GAP + chip / 2, HEADING - FRAME + high / 2)
        return list(self.middles.values())[-1] + high + chip + 2 * GAP

    def join(self, image: Box, left: float) -> None:
        """Draw the arrows from strip to strip, and from the end of a row to the one above it."""
        names = list(self.rows)
        for place, name in enumerate(names):
            before = None
            for strip in self.rows[name]:
                if before is not None:
                    strip.enter(self.sheet, before, "right")
                elif place + 1 < len(names):
                    finer = self.maps[names[place + 1]]
                    if self.pool and finer.key == "c1":
                        finer = self.pool.last
                    lane = self.middles[name] + _extent(self.rows[name])[1] + ROWS / 2
                    strip.enter(self.sheet, finer, "top", [lane, left])
                else:
                    strip.enter(self.sheet, image, "right")
                before = strip.last
            if before is not None:
                link(self.sheet, before, "right", self.maps[name], "left")

    def pyramid(self, edge: float) -> None:
        """Place the pyramid at the right of the backbone, its levels beside the stages."""
        sheet, structure = self.sheet, self.structure
        levels = (5, 4, 3, 2)
        laterals, outputs = (
            [layer_box(layer) for level in levels for layer in of_module(structure, f"fpn.{kind}{level}")]
            for kind in ("lateral", "output")
        )
        others = [layer_box(layer) for layer in of_module(structure, "fpn") if layer.kind in ("add", "upsample")]
        ups, adds = others[::2], others[1::2]
        maps = [tensor(structure, f"p{level}", "backbone") for level in levels]
        p6 = self.p6
        same_width(laterals)
        same_width(ups)
        same_width(outputs)
        same_width([p6, *maps])
        x = edge + 2 * GAP + FRAME
        merge = x + laterals[0].w + GAP + max(ups[0].w, adds[0].w) / 2
        out = merge + adds[0].w / 2 + GAP + max(0.0, (ups[0].w - adds[0].w) / 2 - GAP)
        for place, level in enumerate(levels):
            middle = self.middles[f"c{level}"]
            for box, at in ((laterals[place], x), (outputs[place], out), (maps[place], out + outputs[0].w + GAP)):
                box.x = at
                put(box, y=middle)
        p6.x, p6.y = maps[0].x, maps[0].y - p6.h - GAP
        before = laterals[0]
        for up, add, lateral in zip(ups, adds, laterals[1:], strict=True):
            put(add, merge, lateral.middle[1])
            put(up, merge, (before.bottom + lateral.y) / 2)
            link(sheet, before, "right" if before is laterals[0] else "bottom", up, "top")
            link(sheet, up, "bottom", add, "top")
            link(sheet, lateral, "right", add, "left")
            before = add
        for place, (lateral, output) in enumerate(zip(laterals, outputs, strict=True)):
            link(sheet, self.maps[f"c{levels[place]}"], "right", lateral, "left")
            link(sheet, adds[place - 1] if place else lateral, "right", output, "left")
            link(sheet, output, "right", maps[place], "left")
        link(sheet, maps[0], "top", p6, "bottom")
        inside = [*laterals, *others, *outputs, *maps, p6]
        sheet.boxes += inside
        group = frame(sheet, "fpn", "backbone", "Feature Pyramid Network", inside)
        group.x = edge + 2 * GAP
        group.w = maps[0].right + FRAME - group.x
        group.y = self.top
        group.h = max(box.bottom for box in inside) + FRAME - group.y


def _extent(strips: list[Strip]) -> tuple[float, float]:
    """Return how far a row reaches above and below its middle."""
    half = max(box.h for strip in strips for box in strip.main) / 2
    above = half + (TITLE if any(strip.framed for strip in strips) else 0)
    below = half
    for strip in strips:
        if strip.side:
            below = max(below, half + LANE + strip.side.h + PAD)
        elif strip.framed:
            below = max(below, half + (LANE if strip.add else 0) + PAD)
    return above, below
