"""Networks of many kinds to draw, and what a well laid out sheet keeps to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, pairwise
from typing import Any

from maskrcnn.config import Config
from maskrcnn.inspection.drawings import Box, Level, Sheet, draw_structure
from maskrcnn.inspection.structure import Structure, read_structure

Rect = tuple[float, float, float, float]
KEYPOINTS = tuple(f"point {k}" for k in range(17))


def network(preset: str, classes: int = 6, masks: bool = True, **overrides: Any) -> Config:
    """Return a preset's configuration; overrides have __ for the dot."""
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return Config.preset(preset, class_names=[f"class {k}" for k in range(classes)], masks=masks, overrides=changes)


NETWORKS = {
    "resnet101-fpn": network("resnet101-fpn"),
    "one class": network("resnet101-fpn", 1),
    "thousand classes": network("resnet101-fpn", 1000),
    "resnet18-fpn": network("resnet18-fpn", 2),
    "c4": network("resnet50"),
    "shallow c4": network("resnet18", masks=False),
    "dc5": network("resnet50", backbone__dilate_c5=True, box__num_fcs=2, box__pool_size=7),
    "vgg": network("vgg16", 2),
    "vgg with fpn": network("vgg16-fpn"),
    "no masks": network("small-fpn", masks=False),
    "keypoints": network("resnet50-fpn", 1, keypoint_names=KEYPOINTS),
    "keypoints alone": network("resnet50-fpn", 1, masks=False, keypoint_names=KEYPOINTS),
    "c4 keypoints": network("resnet50", 1, keypoint_names=KEYPOINTS[:5]),
    "resnext": network("resnet101-fpn", backbone__groups=32, backbone__width_per_group=8),
    "deep heads": network("resnet50-fpn", box__num_convs=4, box__num_fcs=1, rpn__num_convs=3, mask__num_convs=1),
    "mean": network(
        "resnet50-fpn", box__num_fcs=0, mask__num_convs=0, box__class_agnostic=True, mask__class_agnostic=True
    ),
    "roi pool": network("resnet50-fpn", roi_align__method="pool", rpn__per_level=False, rpn__min_size=None),
    "matterport": network(
        "resnet101-fpn",
        roi_align__method="crop_and_resize",
        roi_align__level_rounding="nearest",
        rpn__clip="input",
        rpn__max_log_scale=None,
        rpn__delta_weights=(10.0, 10.0, 5.0, 5.0),
        box__classes_per_roi="best",
        mask__paste="integer_box",
    ),
    "many anchors": network(
        "resnet50-fpn",
        anchors__sizes=[[8, 11, 14], [16, 23, 32], [32, 45, 64], [64, 91, 128], [128, 181, 256]],
        anchors__ratios=[0.25, 0.33, 0.5, 0.75, 1, 1.5, 2, 3],
    ),
    "large input": network("resnet50-fpn", image__min_size=3200, image__max_size=6400, fpn__channels=1024),
}


@cache
def drawn(name: str, level: Level) -> list[Sheet]:
    """Return the sheets of one of `NETWORKS`."""
    return draw_structure(structure(name), level).sheets


@cache
def structure(name: str) -> Structure:
    """Return the structure of one of `NETWORKS`."""
    return read_structure(NETWORKS[name])


def rect(box: Box) -> Rect:
    return box.x, box.y, box.x + box.w, box.y + box.h


def overlap(a: Rect, b: Rect, touching: float = 0.2) -> bool:
    """Return whether two rectangles share more than their borders."""
    apart_in_x = a[0] >= b[2] - touching or b[0] >= a[2] - touching
    return not (apart_in_x or a[1] >= b[3] - touching or b[1] >= a[3] - touching)


def on_border(box: Box, x: float, y: float) -> bool:
    beside = min(abs(x - box.left), abs(x - box.right)) < 0.01 and box.y - 0.01 <= y <= box.bottom + 0.01
    above = min(abs(y - box.y), abs(y - box.bottom)) < 0.01 and box.left - 0.01 <= x <= box.right + 0.01
    return beside or above


def flaws(sheet: Sheet) -> Iterator[str]:
    """Yield what is wrong with a sheet's layout."""
    keys = [box.key for box in sheet.boxes]
    if len(set(keys)) < len(keys):
        yield "two boxes have one key"
    page = (0.0, 0.0, sheet.width, sheet.height)
    for a, b in combinations(sheet.boxes, 2):
        if overlap(rect(a), rect(b)):
            yield f"{a.key} overlaps {b.key}"
    texts = [(line, line.extent) for line in sheet.all_text()]
    for box in sheet.boxes:
        if not inside(rect(box), page):
            yield f"{box.key} leaves the sheet"
        for line in box.text():
            if not box.circle and not inside(line.extent, rect(box)):
                yield f"{line.text!r} leaves {box.key}"
        own = box.text()
        for line, extent in texts:
            if overlap(extent, rect(box)) and line not in own:
                yield f"{line.text!r} is on {box.key}"
    for line, extent in texts:
        if not inside(extent, page):
            yield f"{line.text!r} leaves the sheet"
    for (one, first), (other, second) in combinations(texts, 2):
        if overlap(first, second, 0.5):
            yield f"{one.text!r} is on {other.text!r}"
    yield from _flaws_of_arrows(sheet)
    yield from _flaws_of_frames(sheet)


def _flaws_of_arrows(sheet: Sheet) -> Iterator[str]:
    texts = [(line.text, line.extent) for line in sheet.all_text()]
    for arrow in sheet.arrows:
        name = f"{arrow.source} to {arrow.target}"
        for key, point in ((arrow.source, arrow.points[0]), (arrow.target, arrow.points[-1])):
            if not on_border(sheet[key], *point):
                yield f"{name} does not end on {key}"
        for (x1, y1), (x2, y2) in pairwise(arrow.points):
            if min(abs(x1 - x2), abs(y1 - y2)) > 0.01:
                yield f"{name} is aslant"
            segment = (min(x1, x2) - 0.3, min(y1, y2) - 0.3, max(x1, x2) + 0.3, max(y1, y2) + 0.3)
            for box in sheet.boxes:
                if overlap(segment, rect(box), 0.4):
                    yield f"{name} runs through {box.key}"
            for text, extent in texts:
                if overlap(segment, extent, 0.4):
                    yield f"{name} runs through {text!r}"


def _flaws_of_frames(sheet: Sheet) -> Iterator[str]:
    frames = {group.key: (group.x, group.y, group.x + group.w, group.y + group.h) for group in sheet.groups}
    for group in sheet.groups:
        for key in group.members:
            if not inside(rect(sheet[key]), frames[group.key]):
                yield f"{key} leaves the frame {group.key}"
        if group.parent and not inside(frames[group.key], frames[group.parent]):
            yield f"the frame {group.key} leaves {group.parent}"
        for line in group.text():
            if not inside(line.extent, frames[group.key]):
                yield f"{line.text!r} leaves its frame"
    for a, b in combinations(sheet.groups, 2):
        if a.parent == b.parent and overlap(frames[a.key], frames[b.key]):
            yield f"the frames {a.key} and {b.key} overlap"


def inside(a: Rect, b: Rect) -> bool:
    return b[0] - 0.01 <= a[0] and b[1] - 0.01 <= a[1] and a[2] <= b[2] + 0.01 and a[3] <= b[3] + 0.01
