"""What the report tells of one detection: its way from an anchor to a mask."""

from __future__ import annotations

import math

from PIL import Image

from maskrcnn.errors import counted
from maskrcnn.inspection.follow import Crop, ObjectTrail, Removed
from maskrcnn.inspection.pictures import heat, signed_heat
from maskrcnn.inspection.pictures.colors import value_range
from maskrcnn.inspection.report import markup, overlays
from maskrcnn.inspection.report.overlays import AFTER, BEFORE, FOUND, REMOVED, Box
from maskrcnn.inspection.report.subject import Subject
from maskrcnn.inspection.report.texts import number

MOST_REMOVED = 40
CROP, LOGITS = 168, 196
"""Sides of pictures of crops and of mask logits, in CSS pixels."""


def object_article(subject: Subject, trail: ObjectTrail) -> str:
    """Return the place of one detection."""
    a = trail.anchor
    inside = [_ways(subject, trail), markup.facts(trail.steps())]
    inside += [
        "<h3>Objectness, and what it removed</h3>",
        f'<p class="body">Its anchor scored {a.probability:.3f}: rank {number(a.rank_on_level)} of '
        f"{number(a.anchors_on_level)} on {a.level}, {number(a.rank)} of all {number(a.anchors)}. In NMS it is "
        "proposal "
        f"{number(trail.proposal + 1)} of {number(trail.proposals)}, and removed {_told(trail.rpn_removed)} that "
        "overlapped it too much.</p>",
        _removed(subject, trail),
        "<h3>Its crops</h3>",
        markup.row(_crops(subject, trail)),
        "<h3>Class scores</h3>",
        markup.bars((name, share, name == trail.name) for name, share in trail.class_scores[:6]),
    ]
    if trail.mask_logits is not None:
        inside += ["<h3>Its mask</h3>", markup.row(mask_figures(subject, trail))]
    x1, y1, x2, y2 = trail.box
    body = (
        f"Found as {trail.name} with probability {trail.score:.3f}, {x2 - x1:.0f} × {y2 - y1:.0f} pixels. It began "
        "as an "
        f"anchor of {a.level}; its crop for class and box was cut from {trail.box_crop.level}"
        + (f", that for the mask from {trail.mask_crop.level}" if trail.mask_crop is not None else "")
        + "."
    )
    return markup.article(
        f"object-{trail.number}", "output", "Detection", f"{trail.name} {trail.score:.2f}", body, "", "".join(inside)
    )


def _ways(subject: Subject, trail: ObjectTrail) -> str:
    """Return anchor, proposal and detection over the photo."""
    of = f"object-{trail.number}"
    boxes: list[tuple[Box, str, str, bool]] = [
        (trail.anchor.box_in_photo, BEFORE, "the anchor", True),
        (trail.rpn_refinement.after_in_photo, AFTER, "the proposal", False),
        (trail.box, FOUND, "the detection", False),
    ]
    shapes = [overlays.box(box, color, of, what, dashed) for box, color, what, dashed in boxes]
    if trail.mask is not None:
        shapes.insert(0, overlays.mask(trail.mask.numpy(), FOUND, of, trail.name))
    part = around([box for box, *_ in boxes], subject.size)
    picture = overlays.photo_svg(subject.size, shapes, "Anchor, proposal and detection over the photo", part)
    return (
        f"<figure>{picture}"
        + markup.legend((color, what) for _, color, what, _ in boxes)
        + "<figcaption>The same object three times: the anchor, moved by the RPN to the proposal, moved by the head to "
        "the detection.</figcaption></figure>"
    )


def _told(removed: tuple[Removed, ...]) -> str:
    return "no box" if not removed else counted(len(removed), "box")


def _removed(subject: Subject, trail: ObjectTrail) -> str:
    """Return the boxes that NMS removed for this one."""
    if not trail.rpn_removed:
        return ""
    shown = trail.rpn_removed[:MOST_REMOVED]
    kept, of = trail.rpn_refinement.after_in_photo, f"object-{trail.number}"
    shapes = [
        overlays.box(r.box_in_photo, REMOVED, of, f"removed: {r.score:.3f}, IoU {r.iou:.2f}", dashed=True)
        for r in shown
    ]
    shapes.append(overlays.box(kept, AFTER, of, "kept"))
    part = around([kept, *(r.box_in_photo for r in shown)], subject.size)
    picture = overlays.photo_svg(subject.size, shapes, "Boxes that NMS removed", part)
    some = f" (the best {MOST_REMOVED} are drawn)" if len(trail.rpn_removed) > MOST_REMOVED else ""
    return (
        f"<figure>{picture}<figcaption>Kept in blue, removed dashed{some}. The best of them scored "
        f"{shown[0].score:.3f} and "
        f"overlapped it by IoU {shown[0].iou:.2f}.</figcaption></figure>"
    )


def _crops(subject: Subject, trail: ObjectTrail) -> list[str]:
    crops: list[tuple[str, Crop | None]] = [("class and box", trail.box_crop), ("mask", trail.mask_crop)]
    figures = []
    for what, crop in crops:
        if crop is None:
            continue
        channels, side = crop.values.shape[0], crop.values.shape[1]
        energy = crop.values.float().square().mean(0).sqrt().numpy()
        name = subject.album.add(f"crop-{trail.number}-{what}", heat(energy), cells=True)
        caption = (
            f"{side} × {side} × {channels} for {what}, from {crop.level}{crop.choice}; mean strength of its channels"
        )
        figures.append(markup.figure(subject.album, name, caption, width=CROP, cells=True))
    return figures


def mask_figures(subject: Subject, trail: ObjectTrail) -> list[str]:
    """Return the mask's logits, and the mask on the photo."""
    assert trail.mask_logits is not None and trail.mask is not None
    logits = trail.mask_logits.float().numpy()
    name = subject.album.add(f"logits-{trail.number}", signed_heat(logits), cells=True)
    size = "{} × {}".format(*logits.shape)
    low, high = value_range(logits)
    figures = [
        markup.figure(
            subject.album,
            name,
            f"{size} logits of {trail.name}, {low:.3g} to {high:.3g}: red belongs to it, blue does not",
            width=LOGITS,
            cells=True,
        )
    ]
    part = around([trail.box], subject.size)
    shape = overlays.mask(trail.mask.numpy(), subject.color(trail), f"object-{trail.number}", trail.name)
    picture = overlays.photo_svg(subject.size, [shape], f"The mask of {trail.name} on the photo", part)
    wide = LOGITS * (part[2] - part[0]) / (part[3] - part[1])
    figures.append(
        f'<figure style="width:{min(wide, 2 * LOGITS):.0f}px">{picture}<figcaption>pasted: '
        f"{number(trail.mask_area or 0)} pixels of the photo</figcaption></figure>"
    )
    return figures


def around(boxes: list[Box], size: tuple[int, int], margin: float = 0.25) -> Box:
    """Return what of the photo to show around boxes: not less than a twelfth of it, and never beyond it."""
    height, width = (float(v) for v in size)
    x1, y1 = max(min(b[0] for b in boxes), 0.0), max(min(b[1] for b in boxes), 0.0)
    x2, y2 = min(max(b[2] for b in boxes), width), min(max(b[3] for b in boxes), height)
    rim = max(x2 - x1, y2 - y1, max(size) / 12) * margin
    x1, y1, x2, y2 = max(x1 - rim, 0.0), max(y1 - rim, 0.0), min(x2 + rim, width), min(y2 + rim, height)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else (0.0, 0.0, width, height)


def thumbnail(subject: Subject, trail: ObjectTrail, side: int = 160) -> str:
    """Return the name of a small picture of the object, cut from the photo."""
    x1, y1, x2, y2 = around([trail.box], subject.size, 0.1)
    picture = Image.fromarray(subject.run.photo[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)])
    picture.thumbnail((side, side))
    return subject.album.add(f"thumb-{trail.number}", picture)
