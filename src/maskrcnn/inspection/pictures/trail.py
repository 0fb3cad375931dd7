"""The way of one detection through the network on one sheet, from its anchor to its mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from maskrcnn.drawing import RGB
from maskrcnn.errors import counted
from maskrcnn.fonts import font_for, shortened
from maskrcnn.inspection.pictures.canvas import Box, Sketch, enlarged, legend, sheet_of, stacked
from maskrcnn.inspection.pictures.colors import INK, MUTED, PAPER, heat, signed_heat
from maskrcnn.inspection.pictures.objectness import objectness_on_photo
from maskrcnn.inspection.pictures.views import moved_box, photo_part, photo_view
from maskrcnn.inspection.trace import Trace
from maskrcnn.inspection.trail import Crop, ObjectTrail

SIDE = 336
"""Pixels of a panel's longer side: 48, 24 and 12 for each cell of 7, 14 and 28."""
ANCHOR: RGB = (0xF7, 0xCC, 0x4B)
PROPOSAL: RGB = (0x1B, 0xB9, 0xFA)
FOUND: RGB = (0xC5, 0x06, 0x77)
REMOVED: RGB = (0xB8, 0xC0, 0xC8)
MOST_REMOVED, MOST_CLASSES = 15, 6


def trail_picture(trace: Trace, trail: ObjectTrail) -> Image.Image:
    """Return a sheet on one detection: its anchor, objectness, NMS, crops, class scores, refinements and mask.

    The panels of what a network lacks (mask head, keypoint head) are left out.

    Args:
        trace: the whole one that the detection is of.
        trail: what `follow(trace, number)` returned.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.inspection.follow import follow
        >>> from maskrcnn.model import MaskRCNN
        >>> overrides = {"box.score_threshold": 0.0}
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"], overrides=overrides)).eval()
        >>> trace = model.trace(np.zeros((120, 160, 3), np.uint8))
        >>> trail_picture(trace, follow(trace, 0)).mode
        'RGB'
    """
    panels = [
        (_way(trace, trail), f"1  From the anchor ({trail.anchor.level}) to the proposal to the detection"),
        (_objectness(trace, trail), _objectness_caption(trail)),
        (_rpn_nms(trace, trail), f"3  NMS of the RPN: removed {counted(len(trail.rpn_removed), 'box')} for it"),
        (_energy(trail.box_crop), _crop_caption("4  Crop for class and box", trail.box_crop)),
        (_bars(trail), "5  Class scores"),
        (_head(trace, trail), f"6  Refined by the head; NMS removed {counted(len(trail.class_removed), 'box')} for it"),
    ]
    if trail.mask_crop is not None and trail.mask_logits is not None:
        low, high = (float(v) for v in trail.mask_logits.aminmax())
        panels += [
            (_energy(trail.mask_crop), _crop_caption("7  Crop for the mask", trail.mask_crop)),
            (_logits(trail.mask_logits), f"8  Mask logits of {trail.name}, {low:.3g} (blue) to {high:.3g} (red)"),
            (_mask(trace, trail), f"9  The mask: {trail.mask_area:,} pixels of the photo"),
        ]
    if trail.keypoints is not None:
        panels.append((_keypoints(trace, trail), f"{len(panels) + 1}  {counted(len(trail.keypoints), 'keypoint')}"))
    sheet = sheet_of(panels, columns=3)
    colors = legend(
        [(ANCHOR, "anchor"), (PROPOSAL, "proposal"), (FOUND, "detection"), (REMOVED, "removed by NMS")], sheet.width
    )
    head = Image.new("RGB", (sheet.width, 44), PAPER)
    title = f"Detection {trail.number}: {trail.name} {trail.score:.3f}"
    font = font_for(24, title)
    ImageDraw.Draw(head).text((16, 12), shortened(title, font, sheet.width - 32), font=font, fill=INK)
    return stacked([head, colors, sheet])


def _way(trace: Trace, trail: ObjectTrail) -> Image.Image:
    """Anchor, proposal and detection on the whole photo, joined by arrows between their centres."""
    photo, scale = photo_view(trace, SIDE)
    sketch = Sketch(photo)
    steps = [_times(box, scale) for box in (trail.anchor.box_in_photo, trail.rpn_refinement.after_in_photo, trail.box)]
    sketch.box(steps[0], ANCHOR, 1.5, "dashed")
    sketch.box(steps[1], PROPOSAL, 1.5)
    sketch.box(steps[2], FOUND, 2.5)
    for before, after, ink in ((steps[0], steps[1], PROPOSAL), (steps[1], steps[2], FOUND)):
        sketch.arrow(_centre(before), _centre(after), ink, 1.5)
    return sketch.finished()


def _objectness(trace: Trace, trail: ObjectTrail) -> Image.Image:
    """Objectness of the anchor's level, with the anchor and its centre."""
    scale = photo_view(trace, SIDE)[1]
    sketch = Sketch(objectness_on_photo(trace, trail.anchor.level, SIDE))
    box = _times(trail.anchor.box_in_photo, scale)
    sketch.box(box, (255, 255, 255), 1.5, "dashed")
    sketch.dot(_centre(box), (255, 255, 255), 3.0)
    return sketch.finished()


def _objectness_caption(trail: ObjectTrail) -> str:
    a = trail.anchor
    return f"2  Objectness on {a.level}: {a.probability:.3f}, rank {a.rank_on_level:,} of {a.anchors_on_level:,}"


def _rpn_nms(trace: Trace, trail: ObjectTrail) -> Image.Image:
    removed = [r.box_in_photo for r in trail.rpn_removed[:MOST_REMOVED]]
    kept = trail.rpn_refinement.after_in_photo
    picture, part, scale = photo_part(trace, _around([kept, *removed]), SIDE)
    sketch = Sketch(picture)
    for box in reversed(removed):
        sketch.box(moved_box(box, part, scale), REMOVED, 1.0)
    sketch.box(moved_box(kept, part, scale), PROPOSAL, 2.5)
    return sketch.finished()


def _head(trace: Trace, trail: ObjectTrail) -> Image.Image:
    removed = [r.box_in_photo for r in trail.class_removed[:MOST_REMOVED]]
    proposal = trail.head_refinement.before_in_photo
    picture, part, scale = photo_part(trace, _around([trail.box, proposal, *removed]), SIDE)
    sketch = Sketch(picture)
    for box in reversed(removed):
        sketch.box(moved_box(box, part, scale), REMOVED, 1.0)
    sketch.box(moved_box(proposal, part, scale), PROPOSAL, 1.5, "dashed")
    sketch.box(moved_box(trail.box, part, scale), FOUND, 2.5)
    return sketch.finished()


def _energy(crop: Crop) -> Image.Image:
    """The root mean square over the channels of a crop's every bin."""
    values = crop.values.double().square().mean(0).sqrt().numpy()
    return enlarged(Image.fromarray(heat(values)), SIDE)


def _crop_caption(title: str, crop: Crop) -> str:
    channels, height, width = crop.values.shape
    number = "" if crop.level_number is None else f" (equation 1: {crop.level_number:.2f})"
    return f"{title} from {crop.level}{number}: {height} x {width}, strength over {channels} channels"


def _logits(logits: Float[Tensor, "M M"]) -> Image.Image:
    return enlarged(Image.fromarray(signed_heat(logits.numpy())), SIDE)


def _mask(trace: Trace, trail: ObjectTrail) -> Image.Image:
    """The part of the photo around the detection, with its mask."""
    picture, part, scale = photo_part(trace, trail.box, SIDE)
    left, top, right, bottom = (int(v) for v in part)
    assert trail.mask is not None  # as mask_logits are there
    mask = Image.fromarray(trail.mask[top:bottom, left:right].numpy()).resize(picture.size, Image.Resampling.NEAREST)
    canvas = np.asarray(picture).copy()
    covered = np.asarray(mask)
    canvas[covered] = (0.5 * canvas[covered] + 0.5 * np.array(FOUND)).astype(np.uint8)
    sketch = Sketch(Image.fromarray(canvas))
    sketch.box(moved_box(trail.box, part, scale), FOUND, 1.5)
    return sketch.finished()


def _keypoints(trace: Trace, trail: ObjectTrail) -> Image.Image:
    picture, part, scale = photo_part(trace, trail.box, SIDE)
    sketch = Sketch(picture)
    sketch.box(moved_box(trail.box, part, scale), FOUND, 1.5)
    for x, y, _ in [] if trail.keypoints is None else trail.keypoints.tolist():
        sketch.dot(((x - part[0]) * scale, (y - part[1]) * scale), FOUND, 4.0)
    return sketch.finished()


def _bars(trail: ObjectTrail, size: int = 16) -> Image.Image:
    """The likeliest classes as bars, the detection's own in its colour."""
    shown = trail.class_scores[:MOST_CLASSES]
    step, room = 3 * size, SIDE - 4 * size
    picture = Image.new("RGB", (SIDE, step * len(shown) + size), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (name, share) in enumerate(shown):
        y = row * step
        font = font_for(size, name)
        draw.text((0, y), shortened(name, font, SIDE), font=font, fill=INK)
        top = y + round(1.4 * size)
        draw.rectangle((0, top, room, top + size), fill=(236, 239, 242))
        ink = FOUND if name == trail.name else MUTED
        draw.rectangle((0, top, max(round(share * room), 1), top + size), fill=ink)
        draw.text((SIDE, top - 2), f"{share:.3f}", font=font_for(size, "0"), fill=INK, anchor="ra")
    return picture


def _around(boxes: Sequence[Box]) -> Box:
    """Return the box that holds all others."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _times(box: Iterable[float], scale: float) -> Box:
    x1, y1, x2, y2 = (v * scale for v in box)
    return x1, y1, x2, y2


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
