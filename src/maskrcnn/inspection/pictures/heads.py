"""What the heads say: classes and boxes of RoIs, masks and keypoints of detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from maskrcnn.drawing import RGB, color, overlay
from maskrcnn.errors import InputError
from maskrcnn.fonts import font_for, shortened
from maskrcnn.inspection.pictures.canvas import Sketch, enlarged, sheet_of, stacked
from maskrcnn.inspection.pictures.colors import INK, MUTED, PAPER, heat, scale_bar, signed_heat, value_range
from maskrcnn.inspection.pictures.proposals import moves
from maskrcnn.inspection.pictures.views import (
    NothingToShowError,
    boxes_in_photo,
    class_name,
    detections_in_view,
    found_box,
    found_slots,
    laid_over,
    moved_box,
    photo_part,
    photo_view,
    rois_of,
    slot_of,
    stage_of,
)
from maskrcnn.inspection.trace import Trace
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import paste_probabilities

TILE = 224
"""Pixels of a tile's side: 8 for each cell of a 28 × 28 mask."""
BACKGROUND: RGB = MUTED


def class_scores(
    trace: Trace, rois: Sequence[int] | None = None, top: int = 6, classes: int = 5, width: int = 720
) -> Image.Image:
    """Return the probabilities of the best classes of some RoIs as bars, each RoI beside its part of the photo.

    Args:
        trace: of a whole run.
        rois: numbers among the proposals (in training among those drawn); by default those that the best detections
            come from, or the best proposals where nothing was found.
        top: how many RoIs, if none are named.
        classes: how many classes of each, background being one.
        width: of the picture, in pixels.

    Raises:
        NothingToShowError: there is no RoI.
        InputError: a RoI is not there, or a number is not positive.
    """
    if top < 1 or classes < 1:
        raise InputError(f"top and classes must be at least 1; got {top} and {classes}.")
    all_rois = rois_of(trace)
    chosen = default_rois(trace, top) if rois is None else list(rois)
    wrong = [r for r in chosen if not 0 <= r < len(all_rois.boxes)]
    if wrong:
        raise InputError(f"There is no RoI {wrong[0]}; there are {len(all_rois.boxes)}, counted from 0.")
    if not chosen:
        raise NothingToShowError("The RPN proposes nothing in this photo.")
    probabilities = stage_of(trace, "class_logits")[chosen].softmax(-1)
    levels = [trace.run.roi_levels[k] for k in stage_of(trace, "roi_levels")[0, chosen].tolist()]
    boxes = boxes_in_photo(trace, all_rois.boxes[chosen])
    rows = []
    for roi, level, box, scores in zip(chosen, levels, boxes, probabilities, strict=True):
        values, labels = scores.nan_to_num(0.0).topk(min(classes, len(scores)))
        bars = [(int(label), class_name(trace, int(label)), float(v)) for label, v in zip(labels, values, strict=True)]
        picture, part, scale = photo_part(trace, box, 128)
        sketch = Sketch(picture)
        sketch.box(moved_box(box, part, scale), (255, 255, 255), 1.5)
        rows.append(_bar_row(sketch.finished(), f"RoI {roi}, {level}", bars, len(scores) - 1, width))
    return stacked(rows, gap=10)


def box_refinement(trace: Trace, top: int = 6, max_side: int = 1000) -> Image.Image:
    """Return how the box head moved the RoIs of the best detections: dashed the RoI, solid what was found.

    Args:
        trace: of a whole run.
        top: how many detections, best first.
        max_side: as in `photo_view`.

    Raises:
        NothingToShowError: nothing was found.
    """
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}.")
    slots = found_slots(trace)[:top]
    rois = stage_of(trace, "proposals")[0, [_roi_of(trace, slot) for slot in slots]]
    found = stage_of(trace, "detections")[0, slots]
    photo, scale = photo_view(trace, max_side)
    labels = [f"{class_name(trace, int(row[4]))} {row[5]:.2f}" for row in found.tolist()]
    after = boxes_in_photo(trace, found[:, :4], scale)
    return moves(photo, boxes_in_photo(trace, rois, scale), after, labels)


def mask_logits(trace: Trace, detection: int = 0, classes: int = 5) -> Image.Image:
    """Return the mask logits of a detection's best classes as they are; the mask of its own class is framed.

    White is 0, where a pixel is as likely to belong to the object as not.

    Args:
        trace: of a whole run.
        detection: its number from 0, the best.
        classes: how many, by their probability for the detection's RoI; its own is always the first.

    Raises:
        NothingToShowError: nothing was found, or there is no mask head.
        InputError: there are fewer detections.
    """
    if not trace.run.config.masks:
        raise NothingToShowError("This network has no mask head.")
    if classes < 1:
        raise InputError(f"classes must be at least 1; got {classes}.")
    slot = slot_of(trace, detection)
    label = int(stage_of(trace, "detections")[0, slot, 4])
    probabilities = stage_of(trace, "class_logits")[_roi_of(trace, slot)].softmax(-1).nan_to_num(0.0)
    logits = stage_of(trace, "mask_logits")[slot]
    if len(logits) == 1:
        shown = [label]
    else:
        order = probabilities[:-1].argsort(descending=True).tolist()
        shown = [label, *(k for k in order if k != label)][:classes]
    maps = [logits[min(k, len(logits) - 1)].numpy() for k in shown]
    limit = max(*(abs(end) for m in maps for end in value_range(m)), 1e-6)
    panels = [(_cut_out(trace, slot, TILE), f"detection {detection}")]
    for k, values in zip(shown, maps, strict=True):
        tile = enlarged(Image.fromarray(signed_heat(values, limit)), TILE)
        tile = ImageOps.expand(tile, 4, INK if k == label else PAPER)
        says = f"{class_name(trace, k)} {float(probabilities[k]):.2f}"
        panels.append((tile, "for all classes" if len(logits) == 1 and len(trace.run.config.class_names) > 1 else says))
    sheet = sheet_of(panels, columns=2 if len(panels) == 4 else 3)
    side = maps[0].shape[0]
    return stacked(
        [sheet, scale_bar(sheet.width, f"-{limit:.2g}", f"{limit:.2g}", f"logits, {side} x {side}", signed=True)]
    )


def pasted_mask(trace: Trace, detection: int = 0) -> Image.Image:
    """Return a detection's mask on its way to the photo: probabilities as the head has them, laid on the photo, cut.

    Args:
        trace: of a whole run.
        detection: its number from 0, the best.

    Raises:
        NothingToShowError: nothing was found, or there is no mask head.
        InputError: there are fewer detections.
    """
    config, found = trace.run.config, trace.run.detections
    if not config.masks:
        raise NothingToShowError("This network has no mask head.")
    slot = slot_of(trace, detection)
    assert found is not None and found.masks is not None  # else there would be no slot
    box = found_box(trace, slot)
    picture, part, scale = photo_part(trace, box, 420)
    left, top, right, bottom = (int(v) for v in part)
    label = int(stage_of(trace, "detections")[0, slot, 4])
    logits = stage_of(trace, "mask_logits")[slot]
    probabilities = logits[min(label, len(logits) - 1)].sigmoid()
    # The rule for corners that name the last pixel, as for the run's own masks
    laid = box_ops.move_ends(torch.tensor([box]), -1.0 if config.box_corners == "inclusive" else 0.0)
    laid = laid - torch.tensor([left, top, left, top])
    pasted = paste_probabilities(probabilities[None], laid, (bottom - top, right - left), config.mask.paste)[0].numpy()
    values = np.asarray(Image.fromarray(pasted).resize(picture.size, Image.Resampling.NEAREST))
    mask = Image.fromarray(found.masks[detection, top:bottom, left:right].numpy())
    cut = np.asarray(mask.resize(picture.size, Image.Resampling.NEAREST))
    ink = np.array(color(detection), np.uint8)
    tinted = np.asarray(picture).copy()
    tinted[cut] = (0.45 * tinted[cut] + 0.55 * ink).astype(np.uint8)
    sketch = Sketch(laid_over(picture, heat(values, 0.0, 1.0), np.full(values.shape, 0.7)))
    sketch.box(moved_box(box, part, scale), (255, 255, 255), 2.0)
    side = len(probabilities)
    panels = [
        (enlarged(Image.fromarray(heat(probabilities.numpy(), 0.0, 1.0)), 420), f"the head's {side} x {side}"),
        (sketch.finished(), "laid on the photo"),
        (Image.fromarray(tinted), f"at least {config.mask.threshold:g}: the mask"),
    ]
    sheet = sheet_of(panels, columns=3)
    return stacked([sheet, scale_bar(sheet.width, "0", "1", "probability of the object")])


def keypoint_heatmaps(trace: Trace, detection: int = 0) -> Image.Image:
    """Return the heatmap of every keypoint of a detection, as probabilities that sum to 1; each has its own range.

    Args:
        trace: of a whole run.
        detection: its number from 0, the best.

    Raises:
        NothingToShowError: nothing was found, or there is no keypoint head.
        InputError: there are fewer detections.
    """
    names = trace.run.config.keypoint_names
    if not names:
        raise NothingToShowError("This network has no keypoint head.")
    slot = slot_of(trace, detection)
    logits = stage_of(trace, "keypoint_logits")[slot]
    maps = logits.flatten(1).softmax(-1).reshape(logits.shape).numpy()
    panels = [(_cut_out(trace, slot, 168), f"detection {detection}")]
    for name, values in zip(names, maps, strict=True):
        panels.append((enlarged(Image.fromarray(heat(values, 0.0)), 168), f"{name} {np.nanmax(values):.2f}"))
    return sheet_of(panels, columns=6, size=13)


def final_overlay(trace: Trace, threshold: float = 0.5, max_side: int = 1000) -> Image.Image:
    """Return the photo with everything found whose score is at least `threshold`; the photo alone if nothing was.

    Every detection has the colour of its number, as in `box_refinement` and `pasted_mask`.

    Args:
        trace: of a whole run.
        threshold: least score, 0 to 1.
        max_side: as in `photo_view`.

    Raises:
        NothingToShowError: this is a run of training.
        InputError: the threshold is out of range.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must be 0 to 1; got {threshold}.")
    photo, scale = photo_view(trace, max_side)
    found = detections_in_view(trace, photo.size, scale, threshold)
    return overlay(np.asarray(photo), found, colors=[color(number) for number in range(len(found))])


def default_rois(trace: Trace, top: int) -> list[int]:
    """Return the RoIs that the best detections come from; the best valid ones where nothing was found."""
    found = trace.run.detections
    if found is not None and len(found):
        return list(dict.fromkeys(_roi_of(trace, slot) for slot in found_slots(trace)))[:top]
    return rois_of(trace).valid.nonzero()[:top, 0].tolist()


def _roi_of(trace: Trace, slot: int) -> int:
    """Return the proposal that a slot of `detections` came from."""
    return int(stage_of(trace, "candidate_rois")[0, int(stage_of(trace, "detection_places")[0, slot])])


def _cut_out(trace: Trace, slot: int, side: int) -> Image.Image:
    return photo_part(trace, found_box(trace, slot), side, margin=0.0)[0]


def _bar_row(
    picture: Image.Image, title: str, bars: list[tuple[int, str, float]], background: int, width: int
) -> Image.Image:
    """Return a picture with its title, and bars of (label, name, value from 0 to 1) beside it."""
    size, step, left = 14, 24, 300
    row = Image.new("RGB", (width, max(picture.height, step * len(bars)) + step), PAPER)
    row.paste(picture, ((128 - picture.width) // 2, step))
    draw = ImageDraw.Draw(row)
    draw.text((0, step // 2), title, font=font_for(size, title), fill=INK, anchor="lm")
    room = max(width - left - 60, 20)
    for number, (label, name, value) in enumerate(bars):
        y = step + number * step
        font = font_for(size, name)
        shown = shortened(name, font, left - 128 - 28)
        draw.text((left - 8, y + step // 2), shown, font=font, fill=INK, anchor="rm")
        draw.rectangle((left, y + 4, left + room, y + step - 4), fill=(240, 242, 245))
        ink = BACKGROUND if label == background else color(label)
        if value > 0:
            draw.rectangle((left, y + 4, left + max(round(room * value), 1), y + step - 4), fill=ink)
        draw.text((left + room + 8, y + step // 2), f"{value:.3f}", font=font_for(size, "0"), fill=INK, anchor="lm")
    return row
