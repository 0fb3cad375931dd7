"""This image's own data at a place: figures over the photo and pictures of maps, with what they show."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import torch

from maskrcnn.drawing import SURE
from maskrcnn.inspection.pictures import (
    css,
    feature_mosaic,
    keypoint_heatmaps,
    level_color,
)
from maskrcnn.inspection.pictures.features import energy_on_photo
from maskrcnn.inspection.pictures.objectness import objectness_on_photo
from maskrcnn.inspection.pictures.roi import roi_panels
from maskrcnn.inspection.pictures.views import levels_of, network_input
from maskrcnn.inspection.places import valid_proposals
from maskrcnn.inspection.report import markup, overlays
from maskrcnn.inspection.report.objects import mask_figures
from maskrcnn.inspection.report.overlays import AFTER, BEFORE, FOUND, Box
from maskrcnn.inspection.report.subject import Subject
from maskrcnn.inspection.report.texts import number
from maskrcnn.ops import boxes as box_ops

MAP_SIDE, SMALL_MAP = 640, 420
TOP_ANCHORS, REFINED = 60, 12
PANEL_HEIGHT, PANEL_CROP, PANEL_WIDTH = 310, 160, 245
"""Of the pictures of RoIAlign, in CSS pixels: of the photo and the grid, of the crop; and at most how wide."""
NOTHING = '<p class="body"><b>Nothing was found in this image</b>, so there is no box, crop or mask to show here.</p>'


def photo(subject: Subject) -> str:
    """Return the photo and what the network gets of it."""
    batch = subject.run.batch
    (height, width), (tall, wide) = batch.sizes[0].tolist(), batch.tensor.shape[-2:]
    picture = network_input(subject.trace)
    picture.thumbnail((MAP_SIDE, MAP_SIDE))
    view = subject.album.add("network-view", picture)
    caption = (
        f"{subject.name}, {subject.size[0]} × {subject.size[1]} pixels (height × width), became {height} × {width} "
        f"(scale {height / subject.size[0]:.3f}) in an input of {tall} × {wide}."
    )
    return markup.figure(subject.album, view, caption, "The padded image that the network sees", width=SMALL_MAP)


def feature_map(subject: Subject, name: str) -> str:
    """Return where a map is strong, and its strongest channels; every channel of p6."""
    picture, high = energy_on_photo(subject.trace, name, MAP_SIDE)
    energy = subject.album.add(f"energy-{name}", picture)
    caption = f"Where {name} is strong: the root mean square of its channels, from 0 (blue) to {high:.3g} (yellow)."
    figures = [markup.figure(subject.album, energy, caption)]
    whole = name == "p6"
    mosaic = feature_mosaic(subject.trace, name, "all" if whole else "strongest", padding=whole, side=MAP_SIDE)
    named = subject.album.add(f"mosaic-{name}", mosaic, cells=whole)
    channels = subject.trace[name].shape[1]
    caption = (
        f"All {channels} channels of {name}, the padding included. Each has the whole range of colours."
        if whole
        else f"The 16 strongest of {channels} channels, with their numbers. Each has the whole range of colours."
    )
    return "".join([*figures, markup.figure(subject.album, named, caption)])


def energies(subject: Subject, names: Iterable[str], what: str) -> str:
    """Return several maps beside each other."""
    figures = []
    for name in names:
        picture, high = energy_on_photo(subject.trace, name, SMALL_MAP)
        kept = subject.album.add(f"small-energy-{name}", picture)
        figures.append(markup.figure(subject.album, kept, f"{name}: {what}, up to {high:.3g}", width=245))
    return markup.row(figures)


def mosaic(subject: Subject, name: str) -> str:
    """Return the strongest channels of a map."""
    kept = subject.album.add(f"mosaic-{name}", feature_mosaic(subject.trace, name, side=MAP_SIDE))
    channels = subject.trace[name].shape[1]
    return markup.figure(subject.album, kept, f"The 16 strongest of the {channels} channels of {name}.")


def anchors(subject: Subject) -> str:
    """Return where the anchors come from, level by level, and those of one cell of each."""
    config = subject.run.config.anchors
    rows, shapes, entries = [], [], []
    for level in levels_of(subject.trace):
        sizes = ", ".join(f"{s:g}" for s in config.sizes[level.number])
        counts = f"{number(level.count)}"
        product = f"{level.rows} × {level.columns} × {config.per_cell}"
        rows.append((level.name, str(level.stride), product, counts, sizes))
        cell = (level.rows // 2) * level.columns + level.columns // 2
        first = level.first + cell * config.per_cell
        color = css(level_color(level.name))
        for box in subject.boxes(subject.trace["anchors"][first : first + config.per_cell]):
            shapes.append(overlays.box(box, color, f"level-{level.name}", f"an anchor of {level.name}"))
        entries.append((color, level.name))
    total = sum(level.count for level in levels_of(subject.trace))
    rows.append(("all", "", "", number(total), ""))
    told = markup.table(("level", "stride", "cells × per cell", "anchors", "sizes"), rows, numbers=(1, 2, 3))
    picture = overlays.photo_svg(subject.size, shapes, "The anchors of one cell of every level")
    return (
        f"{told}<figure>{picture}{markup.legend(entries)}<figcaption>The {config.per_cell} anchors of the middle "
        "cell of "
        "every level. The same stand at every other cell.</figcaption></figure>"
    )


def objectness(subject: Subject) -> str:
    """Return the best objectness at every cell, level by level."""
    figures = []
    levels = levels_of(subject.trace)
    side, width = (SMALL_MAP, 245) if len(levels) > 1 else (MAP_SIDE, 500)
    for level in levels:
        kept = subject.album.add(f"objectness-{level.name}", objectness_on_photo(subject.trace, level.name, side))
        best = float(subject.trace["rpn_objectness"][0, level.anchors].amax().sigmoid())
        caption = f"{level.name}: {level.rows} × {level.columns} cells; the best anchor {best:.2f}"
        figures.append(markup.figure(subject.album, kept, caption, width=width))
    return markup.row(figures)


def _levels_legend(subject: Subject, names: Iterable[str]) -> str:
    return markup.legend((css(level_color(name)), name) for name in names)


def top_anchors(subject: Subject) -> str:
    """Return the anchors that scored best, in the colours of their levels."""
    trace = subject.trace
    scores = trace["top_scores"][0]
    best = scores.topk(min(TOP_ANCHORS, len(scores))).indices
    best = best[scores[best].isfinite()]
    boxes = subject.boxes(trace["proposals_before_refinement"][0, best])
    levels = _levels_of_anchors(subject, trace["top_anchors"][0, best].tolist())
    shapes = [
        overlays.box(
            box, css(level_color(level)), "", f"anchor of {level}, {float(scores[k].sigmoid()):.3f}", dashed=True
        )
        for box, level, k in reversed(list(zip(boxes, levels, best.tolist(), strict=True)))
    ]
    picture = overlays.photo_svg(subject.size, shapes, "The anchors that scored best")
    return (
        f"<figure>{picture}{_levels_legend(subject, subject.run.strides)}<figcaption>The {len(boxes)} best of all "
        "anchors, as "
        "they stand on the grid: many for the same object, none fitting exactly.</figcaption></figure>"
    )


def _levels_of_anchors(subject: Subject, numbers: list[int]) -> list[str]:
    levels = levels_of(subject.trace)
    return [next(v.name for v in levels if v.first <= n < v.first + v.count) for n in numbers]


def refined(subject: Subject) -> str:
    """Return the best proposals' anchors and what became of them, with arrows."""
    trace = subject.trace
    shown = subject.proposals[:REFINED]
    places = (
        trace["proposal_places"][0, [number for number, *_ in shown]] if shown else torch.zeros(0, dtype=torch.int64)
    )
    before = subject.boxes(trace["proposals_before_refinement"][0, places])
    shapes = []
    for (n, after, score, _), start in zip(shown, before, strict=True):
        of = subject.belongs(n)
        shapes += [
            overlays.box(start, BEFORE, of, f"anchor of proposal {n + 1}", dashed=True),
            overlays.box(after, AFTER, of, f"proposal {n + 1}, {score:.3f}"),
            overlays.arrow(_middle(start), _middle(after), AFTER),
        ]
    picture = overlays.photo_svg(subject.size, shapes, "Anchors and what their deltas make of them")
    return (
        f"<figure>{picture}{markup.legend([(BEFORE, 'anchor'), (AFTER, 'after refinement')])}<figcaption>The "
        f"{len(shown)} best proposals and the anchors they came from; a line joins their centres.</figcaption></figure>"
    )


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def suppression(subject: Subject) -> str:
    """Return how many boxes NMS leaves of each level, and the proposals."""
    trace, config = subject.trace, subject.run.config.rpn
    levels = levels_of(trace)
    places = _levels_of_anchors(subject, trace["top_anchors"][0].tolist())
    scored = trace["top_scores"][0].isfinite()
    there = (scored & box_ops.large_enough(trace["proposals_before_nms"][0], config.min_size)).tolist()
    kept = trace["top_kept"][0].tolist()
    rows = []
    for level in levels:
        mine = [k for k, name in enumerate(places) if name == level.name and there[k]]
        rows.append((level.name, number(level.count), number(len(mine)), number(sum(kept[k] for k in mine))))
    told = markup.table(("level", "anchors", "go into NMS", "left"), rows, numbers=(1, 2, 3))
    said = (
        f'<p class="body">Of what is left, the best {number(config.post_nms_top_n)} of the image at most become '
        f"proposals: here {number(_count(subject))}.</p>"
    )
    return told + said + proposals(subject)


def _count(subject: Subject) -> int:
    return int(valid_proposals(subject.trace).sum())


def proposals(subject: Subject) -> str:
    """Return the best proposals, in the colour of the level that their crops are cut from."""
    shapes = [
        overlays.box(
            box, css(level_color(level)), subject.belongs(n), f"proposal {n + 1}: {score:.3f}, served by {level}"
        )
        for n, box, score, level in reversed(subject.proposals)
    ]
    picture = overlays.photo_svg(subject.size, shapes, "The best proposals")
    colors = " The colour is the level that serves the RoI." if len(subject.run.roi_levels) > 1 else ""
    return (
        f"<figure>{picture}{_levels_legend(subject, subject.run.roi_levels)}<figcaption>The {len(subject.proposals)} "
        f"best of {number(_count(subject))} proposals.{colors} Point at one to see it in every picture.</figcaption>"
        "</figure>"
    )


def levels_of_rois(subject: Subject) -> str:
    """Return how many RoIs each level serves, and which."""
    count = _count(subject)
    levels = subject.trace["roi_levels"][0, :count]
    sides = box_ops.area(subject.trace["proposals"][0, :count]).clamp(min=0).sqrt()
    rows = []
    for k, name in enumerate(subject.run.roi_levels):
        mine = sides[levels == k]
        span = f"{float(mine.min()):.0f} to {float(mine.max()):.0f}" if len(mine) else "–"
        rows.append((name, str(subject.run.strides[name]), number(len(mine)), span))
    told = markup.table(("level", "stride", "RoIs", "√(w·h) of these, input pixels"), rows, numbers=(1, 2, 3))
    return told + proposals(subject)


def region(subject: Subject, of: str) -> str:
    """Return RoIAlign at work on one RoI, and beside it RoIPool."""
    if not subject.objects:
        if of == "detections" or not subject.proposals:
            return NOTHING
        chosen, whose = 0, "The best proposal"
    else:
        best = max(subject.objects[:4], key=lambda t: (t.box[2] - t.box[0]) * (t.box[3] - t.box[1]))
        chosen = best.proposal if of == "proposals" else best.number
        whose = (
            f"The proposal of {best.name} {best.score:.2f}" if of == "proposals" else f"{best.name} {best.score:.2f}"
        )
    panels, scale = roi_panels(subject.trace, chosen, "proposals" if of == "proposals" else "detections")
    figures = []
    for k, (picture, caption) in enumerate(panels):
        kept = subject.album.add(f"region-{of}-{k}", picture)
        high = PANEL_CROP if k % 3 == 2 else PANEL_HEIGHT
        wide = round(picture.width * high / picture.height)
        figures.append(markup.figure(subject.album, kept, caption, width=min(wide, PANEL_WIDTH)))
    said = (
        f'<p class="body">{escape(whose)}, {escape(scale.what)}. First RoIAlign: the box on the cells of its level, '
        "its bins, the points where it samples between the cells' centres, and the crop that comes out. Then what "
        "RoIPool's rounding would have taken of the same box. "
        f"Colours from {scale.low:.3g} (blue) to {scale.high:.3g} (yellow).</p>"
    )
    return said + markup.row(figures[:3]) + markup.row(figures[3:])


def classes(subject: Subject) -> str:
    """Return the class scores of the objects' RoIs."""
    if not subject.objects:
        return NOTHING
    parts = []
    for trail in subject.objects[:4]:
        said = markup.go(f"object-{trail.number}", f"{trail.name} {trail.score:.2f}, proposal {trail.proposal + 1}")
        entries = [(name, share, name == trail.name) for name, share in trail.class_scores[:5]]
        parts.append(f"<h3>{said}</h3>{markup.bars(entries)}")
    return "".join(parts)


def head_refinement(subject: Subject) -> str:
    """Return proposals and what the head makes of them."""
    if not subject.objects:
        return NOTHING
    shapes = []
    for trail in reversed(subject.objects):
        of = f"object-{trail.number}"
        before, after = trail.head_refinement.before_in_photo, trail.head_refinement.after_in_photo
        shapes += [
            overlays.box(before, AFTER, of, f"proposal {trail.proposal + 1}", dashed=True),
            overlays.box(after, FOUND, of, f"{trail.name} {trail.score:.2f}", go=of),
        ]
    picture = overlays.photo_svg(subject.size, shapes, "Proposals, and the boxes that the head makes of them")
    legend = markup.legend([(AFTER, "proposal"), (FOUND, "after the head's refinement")])
    return f"<figure>{picture}{legend}<figcaption>Each object's proposal and its refined box.</figcaption></figure>"


def mask_logits(subject: Subject) -> str:
    """Return the mask logits of the objects, and their masks on the photo."""
    if not subject.objects or subject.objects[0].mask_logits is None:
        return NOTHING
    return "".join(markup.row(mask_figures(subject, trail)) for trail in subject.objects[:3])


def keypoints(subject: Subject) -> str:
    """Return the heatmaps of the best object's keypoints, and where they were found."""
    if not subject.objects:
        return NOTHING
    best = subject.objects[0]
    kept = subject.album.add("keypoints", keypoint_heatmaps(subject.trace, best.number))
    caption = f"The heatmaps of {best.name} {best.score:.2f}; the brightest cell of each is the keypoint."
    return markup.figure(subject.album, kept, caption) + result(subject, masks=False)


def result(subject: Subject, masks: bool = True) -> str:
    """Return what was found, on the photo."""
    if not subject.objects:
        return NOTHING
    shapes = []
    letters = min(subject.size) / 30
    for trail in reversed(subject.objects):
        of, color, title = f"object-{trail.number}", subject.color(trail), f"{trail.name} {trail.score:.2f}"
        if masks and trail.mask is not None:
            shapes.append(overlays.mask(trail.mask.numpy(), color, of, title, go=of))
        shapes.append(overlays.box(trail.box, color, of, title, go=of))
        if trail.keypoints is not None:
            sure = trail.keypoints[:, 2] > SURE[subject.run.config.keypoint.scores]
            shapes += [overlays.point(x, y, letters / 4, color, of) for x, y, _ in trail.keypoints[sure].tolist()]
    picture = overlays.photo_svg(subject.size, shapes + _labels(subject, letters), "What was found in the photo")
    more = subject.found - len(subject.objects)
    said = f"{len(subject.objects)} of {subject.found} detections" if more > 0 else f"{len(subject.objects)} detections"
    if not subject.found:
        said = f"No detection reaches {subject.threshold:g}; these are the best {len(subject.objects)}"
    return f"<figure>{picture}<figcaption>{said}. Click one to follow it back to its anchor.</figcaption></figure>"


def _labels(subject: Subject, letters: float) -> list[str]:
    """Return names and scores in the upper or the lower corner of their boxes, where no better one's label is.

    What finds no place has none: pointing at the box still tells.
    """
    height, width = subject.size
    taken: list[Box] = []
    labels = []
    for trail in subject.objects:
        title = f"{trail.name} {trail.score:.2f}"
        long = 0.62 * letters * len(title)
        x1, y1, _, y2 = trail.box
        left = min(max(x1, 0.0) + letters / 3, max(width - long, 0.0))
        for base in (max(y1, 0.0) + 1.1 * letters, min(y2, float(height)) - 0.3 * letters):
            place = (left, base - letters, left + long, base + 0.2 * letters)
            if not any(_meet(place, other) for other in taken):
                taken.append(place)
                labels.append(overlays.text(left, base, title, letters))
                break
    return labels


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
