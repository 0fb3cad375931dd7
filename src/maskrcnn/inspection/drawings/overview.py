"""The sheet `parts`: the paper's figure with this network's numbers, on one slide."""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.config import Config, ResNetConfig
from maskrcnn.errors import counted
from maskrcnn.inspection.drawings.pictograms import HEIGHT, SCALE, pictogram
from maskrcnn.inspection.drawings.place import (
    LEGEND,
    MARGIN,
    heading,
    label,
    legend,
    link,
    put,
    same_height,
    same_width,
)
from maskrcnn.inspection.drawings.sheet import Arrow, Box, Sheet
from maskrcnn.inspection.drawings.text import width
from maskrcnn.inspection.drawings.words import facts, millions, sizes
from maskrcnn.inspection.parts import PARTS
from maskrcnn.inspection.structure import Structure
from maskrcnn.weights.importing import described

SIZE = 17.0
SLIDE = 16 / 9
LABEL, LEAST_TEXT = 15.0, 13.0
LEAST = 214.0
"""Width of the four parts, at least."""


def parts(structure: Structure) -> Sheet:
    """Return the sheet of a network."""
    sheet = Sheet("parts", described(structure.config), facts(structure))
    top = heading(sheet, 28.0)
    boxes = _boxes(structure)
    sheet.boxes += boxes.values()
    image, backbone, rpn, roi_align, heads, found = boxes.values()
    same_width([backbone, rpn, roi_align, heads], LEAST)
    same_height([backbone, rpn, roi_align, heads])
    features, crops = _features(structure), _crops(structure)
    gaps = [46.0, max(150.0, _wide(features) + 40), max(70.0, _wide(crops) + 32), 46.0]
    x = MARGIN + 12
    for box, gap in zip((image, backbone, roi_align, heads, found), [*gaps, 0.0], strict=True):
        box.x = x
        x = box.right + gap
    config = structure.config
    again = config.masks or bool(config.keypoint_names)
    loop = 66.0 if again else 0.0
    right = max(found.right + MARGIN + 12, *(line.extent[2] + MARGIN for line in sheet.all_text()))
    sheet.width, sheet.height = right, max(right / SLIDE, top + 2 * rpn.h + 60 + loop + 2 * MARGIN)
    sheet.width = sheet.height * SLIDE
    for box in boxes.values():
        box.x += (sheet.width - right) / 2
    free = sheet.height - top - 2 * rpn.h - loop
    upper = top + 0.2 * free + rpn.h / 2
    lower = upper + rpn.h + 0.42 * free
    for box in (image, backbone, roi_align, heads, found):
        put(box, y=lower)
    put(rpn, (backbone.right + roi_align.left) / 2, upper)
    _arrows(sheet, structure, features, crops)
    legend(sheet, sheet.height - MARGIN - LEGEND, sheet.width - MARGIN, ("tensor",), (), LEAST_TEXT, _papers(config))
    for box in boxes.values():
        sheet.shapes += pictogram(box, structure)
    return sheet


def _arrows(sheet: Sheet, structure: Structure, features: Sequence[str], crops: Sequence[str]) -> None:
    keys = ("input", "backbone", "rpn", "roi_align", "heads", "output")
    image, backbone, rpn, roi_align, heads, found = (sheet[key] for key in keys)
    link(sheet, image, "right", backbone, "left")
    _say(link(sheet, backbone, "right", roi_align, "left"), features)
    up = link(sheet, backbone, "top", rpn, "left")
    names = list(structure.strides)
    said = ["features", f"{names[0]} … {names[-1]}" if len(names) > 1 else names[0]]
    label(up, said, backbone.middle[0] - 10, rpn.middle[1] + 46, LABEL, "end")
    down = link(sheet, rpn, "right", roi_align, "top")
    kept = structure.shapes["proposals"][1]
    label(down, [counted(kept, "proposal"), f"{kept}×4"], roi_align.middle[0] + 10, rpn.middle[1] + 46, LABEL, "start")
    _say(link(sheet, roi_align, "right", heads, "left"), crops)
    link(sheet, heads, "right", found, "left")
    config = structure.config
    what = " and ".join(["masks"] * config.masks + ["keypoints"] * bool(config.keypoint_names))
    if what:
        back = link(sheet, heads, "bottom", roi_align, "bottom", via=[roi_align.bottom + 36])
        words = f"{counted(structure.shapes['detections'][1], 'detection')}, cut out again for {what}"
        label(back, [words], (roi_align.middle[0] + heads.middle[0]) / 2, roi_align.bottom + 60, LABEL)


def _papers(config: Config) -> dict[str, str]:
    """Return where each part of this network was published."""
    papers = {name: part.paper for name, part in PARTS.items()}
    backbone = config.backbone
    body = "Simonyan and Zisserman 2014"
    if isinstance(backbone, ResNetConfig):
        body = "Xie et al. 2016" if backbone.groups > 1 else "He et al. 2015"
    papers["backbone"] = body + ("; Lin et al. 2016" if config.fpn else "")
    if config.roi_align.method == "pool":
        papers["roi_align"] = "Girshick 2015, section 2.1"
    return papers


def _boxes(structure: Structure) -> dict[str, Box]:
    config = structure.config
    high, wide = structure.input_size
    weights = {part: f"{millions(count)} parameters" for part, count in structure.parameters.items()}
    total = sum(structure.level_anchors.values())
    found = structure.shapes["detections"][1]
    pools = [config.box.pool_size, *[config.mask.pool_size] * config.masks]
    pools += [config.keypoint.pool_size] * bool(config.keypoint_names)
    unique = " and ".join(f"{size}×{size}" for size in dict.fromkeys(pools))
    what = ["class", "box", *["mask"] * config.masks, *["keypoints"] * bool(config.keypoint_names)]
    name = described(config).split(" on ")[1].split(" with ")[0].replace("-FPN", " + FPN")
    method = {"align": "RoIAlign", "pool": "RoIPool", "crop_and_resize": "Crop and resize"}[config.roi_align.method]
    all_stages = tuple(structure.shapes)
    maps = tuple(s for s in all_stages if s[0] in "cp" and s[1:].isdigit())
    proposing = ("anchors", "rpn_objectness", "rpn_deltas", "proposals", "proposal_scores")
    cut = ("roi_levels", *(s for s in all_stages if s.endswith("_features")))
    answers = ("class_logits", "box_deltas", *(s for s in all_stages if s.endswith(("mask_logits", "keypoint_logits"))))
    results = ["masks"] * config.masks + ["keypoints"] * bool(config.keypoint_names)
    layers = {part: tuple(k for k, la in structure.layers.items() if la.part == part) for part in PARTS}
    made = [
        Box("input", "input", "Image", (f"3×{high}×{wide}",), "tensor", ("image", "image_meta")),
        Box("backbone", "backbone", "1 Backbone", (name, weights["backbone"]), "layer", maps, layers["backbone"]),
        Box("rpn", "rpn", "2 RPN", (f"{total:,} anchors", weights["rpn"]), "layer", proposing, layers["rpn"]),
        Box("roi_align", "roi_align", f"3 {method}", (unique + " crops", "no parameters"), "layer", cut),
        Box("heads", "heads", "4 Heads", (" · ".join(what), weights["heads"]), "layer", answers, layers["heads"]),
        Box(
            "output",
            "output",
            "Detections",
            (f"at most {found}:", "box, class, score", *results),
            "tensor",
            ("detections", *results),
        ),
    ]
    return {box.key: _large(box) for box in made}


def _large(box: Box) -> Box:
    box.size, box.top = SIZE, SCALE * HEIGHT + 20
    box.w, box.h = box.needs()
    box.w, box.h = box.w + 8, box.h + 10
    return box


def _features(structure: Structure) -> list[str]:
    names = [name for name in structure.strides if name != "p6"]
    shapes = structure.shapes
    if len(names) == 1:
        return [f"features {names[0]}", sizes(shapes[names[0]][1:])]
    return [f"features {names[0]} … {names[-1]}", sizes(shapes[names[0]][1:]), f"… {sizes(shapes[names[-1]][1:])}"]


def _crops(structure: Structure) -> list[str]:
    return ["crops", *(sizes(shape) for name, shape in structure.shapes.items() if name.endswith("_features"))]


def _wide(lines: Sequence[str]) -> float:
    return max(width(line, LABEL) for line in lines)


def _say(arrow: Arrow, lines: Sequence[str]) -> None:
    """Write the first line over a horizontal arrow, the others below it."""
    (x1, y), (x2, _) = arrow.points[0], arrow.points[-1]
    label(arrow, lines[:1], (x1 + x2) / 2, y - 5, LABEL)
    label(arrow, lines[1:], (x1 + x2) / 2, y + 6 + (len(lines) - 1) * LABEL * 1.32, LABEL)
