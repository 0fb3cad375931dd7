"""A run of training: which anchors and RoIs learn what, and what masks should have been."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from maskrcnn.drawing import RGB
from maskrcnn.errors import InputError
from maskrcnn.heads.box import of_class
from maskrcnn.inspection.pictures.canvas import Box, Sketch, legend, sheet_of, stacked
from maskrcnn.inspection.pictures.colors import IGNORED, NEGATIVE, POSITIVE, TRUTH, heat, scale_bar
from maskrcnn.inspection.pictures.views import (
    NothingToShowError,
    boxes_in_photo,
    level_of,
    photo_part,
    photo_view,
    stage_of,
)
from maskrcnn.inspection.trace import Trace
from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import TargetBatch


def matched_anchors(trace: Trace, level: str | None = None, max_side: int = 1000) -> Image.Image:
    """Return the anchors that are matched with the ground truth, which is white.

    Positive anchors are boxes; of those left out and of the negative ones that were drawn for the loss the centres are
    shown. The legend counts all.

    Args:
        trace: of a run of training.
        level: as `p3`; by default all levels.
        max_side: as in `photo_view`.

    Raises:
        NothingToShowError: this is no run of training.
        InputError: the RPN looks at no such level.
    """
    truth = _truth(trace)
    anchors = stage_of(trace, "anchors")
    positive, negative = (stage_of(trace, f"matched_{kind}")[0] for kind in ("positive", "negative"))
    asked = torch.ones(len(anchors), dtype=torch.bool)
    if level is not None:
        asked[:] = False
        asked[level_of(trace, level).anchors] = True
    drawn = torch.zeros_like(asked)
    drawn[stage_of(trace, "sampled_anchors")[0][stage_of(trace, "sampled_anchors_valid")[0]]] = True
    photo, scale = photo_view(trace, max_side)
    sketch = Sketch(photo)
    kinds = {"positive": positive & asked, "left out": ~positive & ~negative & asked, "negative": negative & asked}
    _dots(sketch, trace, kinds["negative"] & drawn, scale, NEGATIVE)
    _dots(sketch, trace, kinds["left out"], scale, IGNORED)
    for box in boxes_in_photo(trace, anchors[kinds["positive"]], scale):
        sketch.box(box, POSITIVE, 1.5)
    _draw_truth(sketch, _truth_boxes(trace, truth, scale))
    inks = {"positive": POSITIVE, "left out": IGNORED, "negative": NEGATIVE}
    entries = [(ink, f"{kind}: {int(kinds[kind].sum()):,}{_share(kinds[kind], drawn)}") for kind, ink in inks.items()]
    entries.append((TRUTH, f"ground truth: {len(truth)}"))
    return stacked([sketch.finished(), legend(entries, photo.width)])


def sampled_rois(trace: Trace, max_side: int = 1000) -> Image.Image:
    """Return the RoIs that were drawn to train the heads on, and the ground truth, which is white.

    Args:
        trace: of a run of training.
        max_side: as in `photo_view`.

    Raises:
        NothingToShowError: this is no run of training.
    """
    truth = _truth(trace)
    rois, valid = stage_of(trace, "sampled_rois")[0], stage_of(trace, "sampled_rois_valid")[0]
    positive = stage_of(trace, "sampled_rois_positive")[0] & valid
    negative = valid & ~positive
    photo, scale = photo_view(trace, max_side)
    sketch = Sketch(photo)
    for box in boxes_in_photo(trace, rois[negative], scale):
        sketch.box(box, NEGATIVE, 0.67, rim=False)
    for box in boxes_in_photo(trace, rois[positive], scale):
        sketch.box(box, POSITIVE, 2.0)
    _draw_truth(sketch, _truth_boxes(trace, truth, scale))
    entries: list[tuple[RGB, str]] = [
        (POSITIVE, f"positive: {int(positive.sum())}"),
        (NEGATIVE, f"negative: {int(negative.sum())}"),
        (TRUTH, f"ground truth: {len(truth)}"),
    ]
    return stacked([sketch.finished(), legend(entries, photo.width)])


def mask_targets(trace: Trace, most: int = 6) -> Image.Image:
    """Return what the mask head should have said of the positive RoIs, and what it says, beside the photo's part.

    All are stretched to the RoI.

    Args:
        trace: of a run of training.
        most: how many RoIs at most, in the order in which they were drawn.

    Raises:
        NothingToShowError: this is no run of training, there is no mask head, or no RoI is positive.
    """
    if most < 1:
        raise InputError(f"most must be at least 1; got {most}.")
    truth = _truth(trace)
    if not trace.run.config.masks:
        raise NothingToShowError("This network has no mask head.")
    targets = stage_of(trace, "mask_targets")
    positive = stage_of(trace, "sampled_rois_positive")[0, : len(targets)]
    chosen = positive.nonzero()[:most, 0]
    if not len(chosen):
        raise NothingToShowError("No RoI is positive: there is no object in this photo, or no proposal on one.")
    matched = stage_of(trace, "sampled_rois_gt")[0][chosen]
    labels = truth.labels[matched]
    answers = of_class(stage_of(trace, "mask_logits")[chosen], labels).sigmoid()
    panels: list[tuple[Image.Image, str]] = []
    boxes = boxes_in_photo(trace, stage_of(trace, "sampled_rois")[0][chosen])
    for place, label, box, wanted, answer in zip(
        chosen.tolist(), labels.tolist(), boxes, targets[chosen], answers, strict=True
    ):
        part = photo_part(trace, box, 200, margin=0.0)[0]
        panels.append((part, f"RoI {place}: {trace.run.config.class_names[label]}"))
        for values, caption in ((wanted, f"target, {len(wanted)} x {len(wanted)}"), (answer, "the head's answer")):
            tile = Image.fromarray(heat(values.numpy(), 0.0, 1.0))
            panels.append((tile.resize(part.size, Image.Resampling.NEAREST), caption))
    sheet = sheet_of(panels, columns=3 if len(chosen) < 3 else 6)
    return stacked([sheet, scale_bar(sheet.width, "0", "1", "probability of the object")])


class _Truth:
    """The objects of the run's one image."""

    def __init__(self, targets: TargetBatch) -> None:
        valid = targets.valid[0].cpu()
        self.boxes = targets.boxes[0].cpu()[valid]
        self.labels = targets.labels[0].cpu()

    def __len__(self) -> int:
        return len(self.boxes)


def _truth(trace: Trace) -> _Truth:
    if trace.run.targets is None:
        raise NothingToShowError("This is no run of training; model.trace(photo, targets=…) makes one.")
    return _Truth(trace.run.targets)


def _truth_boxes(trace: Trace, truth: _Truth, scale: float) -> list[Box]:
    """Return the ground truth, whose boxes are edges in every network, in the photo's frame times `scale`."""
    shorter = -1.0 if trace.run.config.box_corners == "centers" else 0.0
    return boxes_in_photo(trace, box_ops.move_ends(truth.boxes, shorter), scale)


def _draw_truth(sketch: Sketch, boxes: list[Box]) -> None:
    for box in boxes:
        sketch.box(box, TRUTH, 2.0, "dashed")


def _dots(sketch: Sketch, trace: Trace, which: Bool[Tensor, " A"], scale: float, ink: RGB) -> None:
    """Draw the centres of anchors; those of one cell fall together."""
    boxes = boxes_in_photo(trace, stage_of(trace, "anchors")[which], scale)
    centres = np.unique(np.array([((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes]).reshape(-1, 2), axis=0)
    for x, y in centres.tolist():
        sketch.dot((x, y), ink, 2.5)


def _share(kind: Bool[Tensor, " A"], drawn: Bool[Tensor, " A"]) -> str:
    count = int((kind & drawn).sum())
    return f", {count:,} drawn" if count else ""
