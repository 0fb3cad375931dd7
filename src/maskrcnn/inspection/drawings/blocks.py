"""The sheet `blocks`: the backbone and its pyramid at the left, from there to the RPN above and the crops below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from maskrcnn.inspection.drawings.contents import Contents, contents
from maskrcnn.inspection.drawings.place import (
    FRAME,
    HEADING,
    MARGIN,
    finish,
    frame,
    heading,
    label,
    legend,
    link,
    put,
    row,
    same_height,
    same_width,
)
from maskrcnn.inspection.drawings.sheet import Box, Group, Sheet
from maskrcnn.inspection.drawings.words import facts
from maskrcnn.inspection.structure import Structure
from maskrcnn.weights.importing import described

GAP = 26.0
"""Between boxes that an arrow joins."""
LEVEL = 20.0
"""Between levels of the pyramid."""
STEP = 9.0
"""By how much a level is narrower than the finer one, on each side."""
BUS = 28.0
"""From a frame to the line that hands the features on."""
HEADS = {
    "box": ("stage5", "box_head", "select", "detections"),
    "mask": ("stage5_masks", "mask_head", "paste", "masks"),
    "keypoint": ("stage5_keypoints", "keypoint_head", "locate", "keypoints"),
}
LEVELS = {"box": "roi_levels", "mask": "mask_roi_levels", "keypoint": "keypoint_roi_levels"}


def blocks(structure: Structure) -> Sheet:
    """Return the sheet of a network."""
    words = contents(structure)
    laid = _Layout(structure, words)
    slack = laid.right_end - laid.left_end
    if slack > 0:  # the pyramid stretches to the height of what stands beside it
        laid = _Layout(structure, words, level=LEVEL + slack / (len(laid.maps) + 1))
    else:
        laid = _Layout(structure, words, between=GAP - slack)
    sheet = laid.sheet
    bottom = max(laid.left_end, laid.right_end) + 16
    right = max(group.x + group.w for group in sheet.groups)
    bottom = legend(sheet, bottom, right, ("layer", "step", "tensor"))
    return finish(sheet, right, bottom)


@dataclass
class _Layout:
    """One way to lay the sheet out: with `level` between the pyramid's levels, `between` the RPN and the heads."""

    structure: Structure
    words: Contents
    level: float = LEVEL
    between: float = GAP
    maps: list[Box] = field(default_factory=list)
    """The backbone's, coarsest first."""
    sources: list[Box] = field(default_factory=list)
    """What hands features on, coarsest first."""

    def __post_init__(self) -> None:
        self.sheet = Sheet("blocks", described(self.structure.config), facts(self.structure))
        self.top = heading(self.sheet)
        self.left_end = self.features()
        self.bus = max(group.x + group.w for group in self.sheet.groups) + BUS
        rpn = self.proposals()
        self.right_end = self.heads(rpn.y + rpn.h)
        heads = self.sheet.groups[-1]
        right = max(rpn.x + rpn.w, heads.x + heads.w)
        aside = FRAME if "keypoint" in self.rows and "mask" in self.rows else 0.0
        rpn.w, heads.w = right + aside - rpn.x, right + aside - heads.x
        self.route_boxes(right)

    def features(self) -> float:
        """Place the backbone and the pyramid; return the lower end."""
        words, sheet = self.words, self.sheet
        self.maps = [words.box(name) for name in ("c5", "c4", "c3", "c2", "c1") if name in words]
        pyramid = "p6" in words
        _taper(self.maps)
        same_height(self.maps)
        p6 = words.box("p6") if pyramid else None
        y = self.top + HEADING
        if p6:
            y += p6.h + self.level
        else:  # the one map is at the height of the RPN
            y += max(0.0, (words.box("rpn_head").h - self.maps[0].h) / 2)
        middle = MARGIN + FRAME + max(box.w for box in self.maps) / 2
        for box in self.maps:
            put(box, middle)
            box.y = y
            y += box.h + self.level
        sheet.boxes += self.maps
        for finer, coarser in zip(self.maps[1:], self.maps, strict=False):
            link(sheet, finer, "top", coarser, "bottom")
        self.sources = self.pyramid(p6) if p6 else [self.maps[0]]
        title = "1 Backbone with Feature Pyramid Network" if pyramid else "1 Backbone"
        inside = [box for box in sheet.boxes if box.part == "backbone"]
        group = frame(sheet, "backbone", "backbone", title, inside)
        group.y, group.h = self.top, group.y + group.h - self.top
        image = put(words.box("input"), middle)
        image.y = self.maps[-1].bottom + FRAME + max(GAP, self.level)
        sheet.boxes.append(image)
        link(sheet, image, "top", self.maps[-1], "bottom")
        return image.bottom

    def pyramid(self, p6: Box) -> list[Box]:
        """Place laterals, additions and outputs beside the backbone's maps; return p6 … p2."""
        words, sheet = self.words, self.sheet
        laterals = [words.box(f"lateral{level}") for level in (5, 4, 3, 2)]
        adds = [words.box(f"add{level}") for level in (4, 3, 2)]
        outputs = [words.box(f"p{level}") for level in (5, 4, 3, 2)]
        _taper([p6, *outputs])
        same_width(laterals)
        same_height([*laterals, *outputs])
        x = max(box.right for box in self.maps) + GAP
        merge = x + laterals[0].w + GAP + adds[0].w / 2
        middle = merge + adds[0].w / 2 + GAP + outputs[-1].w / 2
        for source, lateral, output in zip(self.maps, laterals, outputs, strict=False):
            lateral.x = x
            put(lateral, y=source.middle[1])
            put(output, middle, source.middle[1])
            link(sheet, source, "right", lateral, "left")
        put(p6, middle)
        p6.y = self.top + HEADING
        sheet.boxes += [*laterals, *adds, p6, *outputs]
        link(sheet, laterals[0], "right", outputs[0], "left")
        link(sheet, outputs[0], "top", p6, "bottom")
        before = laterals[0]
        for lateral, add, output in zip(laterals[1:], adds, outputs[1:], strict=True):
            put(add, merge, lateral.middle[1])
            down = link(sheet, before, "right" if before is laterals[0] else "bottom", add, "top")
            label(down, ["2×"], merge + 5, add.y - 10, anchor="start")
            link(sheet, lateral, "right", add, "left")
            link(sheet, add, "right", output, "left")
            before = add
        return [p6, *outputs]

    def proposals(self) -> Group:
        """Place the RPN at the upper right."""
        words, sheet = self.words, self.sheet
        head, top_k, decode, nms, _ = line = [
            words.box(key) for key in ("rpn_head", "top_k", "refine", "nms", "proposals")
        ]
        anchors = words.box("anchors")
        same_width([head, anchors])
        same_height([top_k, decode, nms])
        several = len(self.sources) > 1
        loop = FRAME if several else 0.0
        head.x, head.y = self.bus + BUS + FRAME + loop, self.top + HEADING + (HEADING if several else 0)
        if not several:  # straight on from the one map
            head.y = max(head.y, self.sources[0].middle[1] - head.h / 2)
        row(line[1:], head.right + loop + GAP, head.middle[1], GAP)
        anchors.x, anchors.y = head.x, head.bottom + loop + LEVEL
        sheet.boxes += [*line, anchors]
        group = frame(sheet, "rpn", "rpn", "2 RPN: where may objects be?", [*line, anchors])
        if several:
            names = f"↻ {self.sources[-1].key} … {self.sources[0].key}: same weights"
            inner = frame(sheet, "rpn_loop", "rpn", names, [head], parent="rpn")
            group.w += group.x - (inner.x - FRAME)
            group.x = inner.x - FRAME
            group.y, group.h = self.top, anchors.bottom + FRAME - self.top
        for source in self.sources:
            link(sheet, source, "right", head, "left", via=[self.bus])
        for before, after in pairwise(line):
            link(sheet, before, "right", after, "left")
        between = head.right + loop + GAP / 2
        deltas = link(sheet, head, "right", decode, "bottom", [between, decode.bottom + 24], at=0.85, end_at=0.35)
        label(deltas, ["deltas"], top_k.middle[0], decode.bottom + 22)
        link(sheet, anchors, "right", decode, "bottom", end_at=0.65)
        return group

    def heads(self, top: float) -> float:
        """Place RoIAlign and the heads at the lower right; return the lower end."""
        words, sheet = self.words, self.sheet
        self.rows = {
            name: [words.box(key) for key in keys if key in words]
            for name, keys in HEADS.items()
            if f"{name}_head" in words
        }
        self.rules = {name: words.box(LEVELS[name]) for name in self.rows if LEVELS[name] in words}
        self.crops = {name: words.box(f"{name}_roi_align") for name in self.rows}
        for column in zip(*self.rows.values(), strict=True):
            same_width(column)
        same_width([*self.rules.values(), *self.crops.values()])
        x, y = self.bus + BUS + FRAME, top + self.between + HEADING
        for name, line in self.rows.items():
            rule, crop = self.rules.get(name), self.crops[name]
            high = max(box.h for box in line)
            crop.x = x
            if rule:
                rule.x, rule.y = x, y
                crop.y = max(rule.bottom + LEVEL, y + GAP + (high - crop.h) / 2)
            else:
                crop.y = y + GAP + max(0.0, (high - crop.h) / 2)
            row(line, crop.right + 2 * FRAME + GAP, crop.middle[1], GAP)
            y = max(crop.bottom, *(box.bottom for box in line)) + LEVEL
        cuts = [*self.rules.values(), *self.crops.values()]
        inside = [box for line in self.rows.values() for box in line]
        sheet.boxes += [*cuts, *inside]
        roi_align = frame(sheet, "roi_align", "roi_align", "3 RoIAlign", cuts)
        heads = frame(sheet, "heads", "heads", "4 Heads: what is it, and where exactly?", inside)
        end = max(group.y + group.h for group in (roi_align, heads))
        for group in (roi_align, heads):
            group.y = top + self.between
            group.h = end - group.y
        return end

    def route_boxes(self, right: float) -> None:
        """Join crops and heads; `right` is the x where a line may run down at the right end."""
        sheet = self.sheet
        for source in self.sources:
            for crop in self.crops.values() if source.key != "p6" else ():
                link(sheet, source, "right", crop, "left", via=[self.bus])
        for name, line in self.rows.items():
            rule, crop = self.rules.get(name), self.crops[name]
            giver = sheet["proposals" if name == "box" else "detections"]
            side, way = ("right", [right]) if name == "keypoint" and "masks" in sheet else ("bottom", [])
            if rule:
                link(sheet, rule, "bottom", crop, "top")
                link(sheet, giver, side, rule, "right", way)  # type: ignore[arg-type]
            else:
                link(sheet, giver, side, crop, "top", [*way, min(box.y for box in (crop, *line)) - GAP / 2])  # type: ignore[arg-type]
            for before, after in zip([crop, *line], line, strict=False):
                link(sheet, before, "right", after, "left")


def _taper(boxes: Sequence[Box]) -> None:
    """Make boxes, the coarsest first, narrower level by level."""
    widest = max(box.w + 2 * STEP * (len(boxes) - 1 - place) for place, box in enumerate(boxes))
    for place, box in enumerate(boxes):
        box.w = widest - 2 * STEP * (len(boxes) - 1 - place)
